"""The command line: what a user sees, and the documented exit codes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
import yaml
from PIL import Image

from conftest import small_settings
from unlabel.cli import run
from unlabel.terminal import Bar
from unlabel.training.run import Run


@pytest.fixture
def recipe(tmp_path: Path, shapes_store: Path) -> Path:
    settings = small_settings(shapes_store)
    del settings["data"], settings["options"]  # SplitMask's
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, shapes_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    settings = small_settings(shapes_store)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    out = folder / "run"
    assert run(["pretrain", "--recipe", str(folder / "recipe.yaml"), "--out", str(out)]) == 0
    return out


def test_help_is_fast_and_imports_nothing_heavy():
    code = (
        "import sys; from unlabel.cli import run; run(['pretrain', '--help']); "
        "print('torch' in sys.modules or 'timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_run_leaves_all_its_files(finished: Path):
    for name in ("config.yaml", "run.json", "metrics.jsonl", "verdict.json", "report.html"):
        assert (finished / name).is_file()
    assert (finished / "export" / "model.safetensors").is_file()


def test_timm_loads_the_export(finished: Path):
    model = timm.create_model(f"local-dir:{finished / 'export'}", pretrained=True).eval()
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 32)


def test_settings_and_options_reach_the_run(tmp_path: Path, recipe: Path, shapes_store: Path):
    out = tmp_path / "run"
    arguments = ["pretrain", str(shapes_store), "--recipe", str(recipe), "--out", str(out)]
    arguments += ["--method", "mae", "--steps", "2", "--seed", "3", "--set", "optim.lr=0.01"]
    assert run([*arguments, "--set", "options.mask_ratio=0.5"]) == 0
    config = Run.open(out).config
    assert (config.method, config.steps, config.seed, config.optim.lr) == ("mae", 2, 3, 0.01)
    assert config.options["mask_ratio"] == 0.5


def test_evaluate_embed_and_report(finished: Path, tmp_path: Path, shapes_store: Path, capsys):
    arguments = ["evaluate", str(finished), "--data", str(shapes_store), "--labels", "1", "all"]
    assert run([*arguments, "--protocols", "knn", "--protocols", "linear", "--seeds", "1"]) == 0
    assert "pre-trained" in capsys.readouterr().out
    results = json.loads((finished / "results.json").read_text())
    assert {row["subject"] for row in results} >= {"untrained", "raw pixels"}
    out = tmp_path / "vectors.parquet"
    assert run(["embed", str(finished), str(shapes_store), "--out", str(out)]) == 0
    table = pq.read_table(out)
    assert len(table) == 96
    assert len(table["vector"][0]) == 32
    assert run(["embed", str(finished), str(shapes_store), "--out", str(out)]) == 73
    assert run(["report", str(finished)]) == 0


def test_evaluate_says_what_its_figures_mean(finished: Path, shapes_store: Path, capsys):
    arguments = ["evaluate", str(finished), "--data", str(shapes_store), "--protocols", "knn"]
    assert run([*arguments, "--labels", "all", "--seeds", "1"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "kNN, pre-trained (splitmask). Against raw pixels: " in said
    assert "Against untrained: " in said
    assert "not finished" not in said


def test_an_unfinished_run_is_named_as_one(finished: Path, tmp_path: Path, shapes_store, capsys):
    early = tmp_path / "early"
    shutil.copytree(finished, early)
    settings = (early / "config.yaml").read_text()
    (early / "config.yaml").write_text(settings.replace("steps: 12", "steps: 20"))
    arguments = ["embed", str(early), str(shapes_store), "--out", str(tmp_path / "v.parquet")]
    assert run(arguments) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "early is not finished: what follows is of step 12 of 20. Continue it" in said


def test_refused_files_are_named(recipe: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("UNLABEL_CACHE", str(tmp_path / "cache"))
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(40):
        Image.new("RGB", (16, 16), (i, 0, 0)).save(photos / f"{i}.png")
    (photos / "torn.png").write_bytes(b"no image")
    arguments = ["pretrain", str(photos), "--recipe", str(recipe), "--out", str(tmp_path / "run")]
    assert run([*arguments, "--steps", "1"]) == 0
    said = capsys.readouterr().err
    assert "40 images kept" in said
    assert "such as torn.png" in said


def test_a_run_continues_by_resume_alone(finished: Path, capsys):
    assert run(["pretrain", "--resume", str(finished)]) == 0
    assert run(["pretrain", "--resume", str(finished), "--steps", "5"]) == 2
    assert "alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pretrain", "nowhere"], 66, "nowhere"),
        (["pretrain"], 66, "Give a folder"),
        (["pretrain", "--resume", "nowhere"], 66, "config.yaml"),
        (["pretrain", "STORE", "--method", "splitmsk"], 78, "splitmask"),
        (["pretrain", "STORE", "--model", "vit_smal"], 78, "vit_small"),
        (["pretrain", "STORE", "--method", "mae", "--model", "resnet18"], 78, "ViT"),
        (["pretrain", "STORE", "--set", "optim.learning_rate=1"], 78, "learning_rate"),
        (["pretrain", "STORE", "--set", "optim.lr=-1"], 78, "optim.lr"),
        (["pretrain", "STORE", "--set", "optim.lr"], 2, "NAME=VALUE"),
        (["pretrain", "STORE", "--steps", "5", "--epochs", "1"], 2, "not both"),
        (["pretrain", "STORE", "--image-size", "18", "--patch-size", "4"], 78, "16 or 20"),
        (["pretrain", "STORE", "--recipe", "nowhere.yaml"], 66, "nowhere.yaml"),
        (["pretrain", "--bogus"], 2, "bogus"),
        (["evaluate", "nowhere", "--data", "STORE"], 66, "not a run"),
        (["ingest", "nowhere", "--out", "x"], 66, "nowhere"),
        (["export", "nowhere"], 66, "not a run"),
    ],
)
def test_a_mistake_ends_in_one_message_and_its_code(
    arguments: list[str],
    code: int,
    words: str,
    shapes_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
):
    monkeypatch.chdir(tmp_path)
    filled = [str(shapes_store) if word == "STORE" else word for word in arguments]
    assert run(filled) == code
    said = " ".join(capsys.readouterr().err.split())
    assert words in said
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists()


def test_nothing_is_overwritten_unasked(finished: Path, shapes_store: Path, capsys):
    before = (finished / "metrics.jsonl").read_bytes()
    assert run(["pretrain", str(shapes_store), "--steps", "1", "--out", str(finished)]) == 73
    assert "--overwrite" in capsys.readouterr().err
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_overwrite_never_removes_what_is_not_a_run(tmp_path: Path, shapes_store: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    arguments = ["pretrain", str(shapes_store), "--steps", "1", "--out", str(tmp_path)]
    assert run([*arguments, "--overwrite"]) == 73
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_doctor_prints_the_machine(capsys):
    assert run(["doctor"]) == 0
    assert "torch" in capsys.readouterr().out


def test_overwrite_keeps_the_old_run_until_the_new_one_can_be_built(
    finished: Path, shapes_store: Path
):
    before = (finished / "metrics.jsonl").read_bytes()
    arguments = ["pretrain", str(shapes_store), "--out", str(finished), "--overwrite"]
    assert run([*arguments, "--method", "mae", "--model", "resnet18"]) == 78
    assert (finished / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("settings", ["x: 1\n", None])
def test_overwrite_spares_a_folder_that_holds_anything_of_the_users(
    tmp_path: Path, finished: Path, shapes_store: Path, settings: str | None
):
    """A config.yaml of another program, or a run that somebody put a file into."""
    text = settings or (finished / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "thesis.txt").write_text("years of work")
    arguments = ["pretrain", str(shapes_store), "--steps", "1", "--out", str(tmp_path)]
    assert run([*arguments, "--overwrite"]) == 73
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_run_that_never_got_its_settings_can_be_replaced(
    tmp_path: Path, recipe: Path, shapes_store: Path
):
    """Killed between the two files that begin a run."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_text("{}")
    arguments = ["pretrain", str(shapes_store), "--recipe", str(recipe), "--steps", "1"]
    assert run([*arguments, "--out", str(out), "--overwrite"]) == 0


def test_the_seed_of_a_recipe_counts(tmp_path: Path, recipe: Path, shapes_store: Path):
    recipe.write_text(recipe.read_text() + "seed: 7\n")
    arguments = ["pretrain", str(shapes_store), "--recipe", str(recipe), "--steps", "1"]
    assert run([*arguments, "--out", str(tmp_path / "a")]) == 0
    assert Run.open(tmp_path / "a").config.seed == 7
    assert run([*arguments, "--out", str(tmp_path / "b"), "--seed", "3"]) == 0
    assert Run.open(tmp_path / "b").config.seed == 3


def test_resume_refuses_whatever_it_would_ignore(finished: Path):
    for extra in (["--weights", "timm"], ["--seed", "5"], ["--overwrite"]):
        assert run(["pretrain", "--resume", str(finished), *extra]) == 2


def test_a_setting_that_is_no_yaml_is_a_usage_error(shapes_store: Path, capsys):
    assert run(["pretrain", str(shapes_store), "--set", "optim.betas=[0.9"]) == 2
    assert "optim.betas" in capsys.readouterr().err


def test_a_run_finds_its_store_from_any_folder(
    tmp_path: Path, recipe: Path, shapes_store: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(shapes_store.parent)
    arguments = ["pretrain", shapes_store.name, "--recipe", str(recipe), "--steps", "1"]
    assert run([*arguments, "--out", str(tmp_path / "run")]) == 0
    monkeypatch.chdir(tmp_path)
    assert run(["export", "run", "--out", "elsewhere"]) == 0


def test_resume_refuses_a_store_that_holds_other_images(tmp_path: Path, recipe: Path, capsys):
    rng = np.random.default_rng(0)
    folder, store, out = tmp_path / "images.npy", tmp_path / "store", tmp_path / "run"
    np.save(folder, rng.integers(0, 255, (40, 16, 16, 3), dtype=np.uint8))
    assert run(["ingest", str(folder), "--out", str(store)]) == 0
    arguments = ["pretrain", str(store), "--recipe", str(recipe), "--steps", "2"]
    assert run([*arguments, "--out", str(out)]) == 0
    np.save(folder, rng.integers(0, 255, (40, 16, 16, 3), dtype=np.uint8))
    assert run(["ingest", str(folder), "--out", str(store), "--overwrite"]) == 0
    assert run(["pretrain", "--resume", str(out)]) == 0  # it is finished and needs none
    shutil.rmtree(out / "checkpoints")
    assert run(["pretrain", "--resume", str(out)]) == 65
    assert "other images" in " ".join(capsys.readouterr().err.split())
    store.rename(tmp_path / "moved")
    assert run(["pretrain", "--resume", str(out)]) == 66
    assert f"as data: in {out}" in " ".join(capsys.readouterr().err.split())


def test_embed_makes_the_folder_it_writes_to(finished: Path, tmp_path: Path, shapes_store: Path):
    out = tmp_path / "new" / "vectors.parquet"
    assert run(["embed", str(finished), str(shapes_store), "--out", str(out)]) == 0
    assert out.is_file()


def test_ctrl_c_says_how_to_continue_and_ends_with_its_code(
    tmp_path: Path, recipe: Path, shapes_store: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    step = Bar.watch

    def interrupt(self: Bar, done: int, *figures: float) -> None:
        step(self, done, *figures)
        if done == 5:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Bar, "watch", interrupt)
    out = tmp_path / "run"
    arguments = ["pretrain", str(shapes_store), "--recipe", str(recipe), "--out", str(out)]
    assert run(arguments) == 130
    said = " ".join(capsys.readouterr().err.split())
    assert "saved after step 5 of 12" in said
    assert f"unlabel pretrain --resume {out}" in said
    monkeypatch.undo()
    assert run(["pretrain", "--resume", str(out)]) == 0
    assert "Continuing" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["pretrain", "evaluate", "ingest"])
def test_a_usage_error_points_to_the_verbs_own_help(verb: str, capsys):
    assert run([verb, "--bogus"]) == 2
    assert f"Try: unlabel {verb} --help" in capsys.readouterr().err


def test_help_shows_defaults_as_they_are_typed(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["evaluate", "--help"]) == 0
    said = capsys.readouterr().out
    assert "[default: knn linear finetune]" in said
    assert "[default: 1% 10% all]" in said
    assert run(["pretrain", "--help"]) == 0
    assert "--no-overwrite" not in capsys.readouterr().out

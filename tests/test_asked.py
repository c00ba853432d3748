"""What cannot work is refused before any image is read, and before anything is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unlabel.asked import check, merged
from unlabel.cli import run
from unlabel.errors import ConfigError, InputMissing, OutputExists, UsageError


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images that no command has seen, and a cache to look into."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNLABEL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "photos").mkdir()
    for i in range(4):
        pixels = np.full((16, 16, 3), 40 * i, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--out", "taken"], 73, "taken is there already"),
        (["--out", "taken", "--overwrite"], 73, "thesis.txt"),
        (["--out", "photos/0.png/run"], 73, "no folder to write in"),
        (["--method", "splitmsk"], 78, "splitmask"),
        (["--model", "swinv2"], 78, "swinv2_s, swinv2_b"),
        (["--model", "convnext_tiny"], 78, "families"),
        (["--method", "mae", "--model", "resnet18"], 78, "It can train ViT"),
        (["--weights", "nowhere.safetensors"], 66, "nowhere.safetensors"),
        (["--set", "optim.learning_rate=1"], 78, "learning_rate"),
        (["--set", "optim.lr=-1"], 78, "optim.lr"),
        (["--set", "options.flap=0"], 78, "Did you mean flip?"),
        (["--set", "step=3"], 78, "Did you mean steps?"),
        (["--steps", "0"], 78, "steps"),
        (["--epochs", "-1"], 78, "epochs"),
        (["--steps", "5", "--epochs", "1"], 2, "not both"),
        (["--batch-size", "some"], 2, "some"),
    ],
)
def test_a_mistake_is_told_before_the_folder_is_ingested(
    arguments: list[str], code: int, words: str, photos: Path, capsys
):
    assert run(["pretrain", "photos", *arguments]) == code
    assert words in " ".join(capsys.readouterr().err.split())
    there = {path.name for path in photos.parent.iterdir()}
    assert there == {"photos", "taken"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["pretrain", "photos", "--method", "splitmsk"],
        ["pretrain", "photos", "--set", "optim.learning_rate=1"],
        ["pretrain", "--resume", "nowhere"],
        ["evaluate", "nowhere", "--data", "photos"],
        ["export", "nowhere"],
    ],
)
def test_unknown_names_do_not_wait_for_torch(arguments: list[str], photos: Path):
    code = f"import sys; from unlabel.cli import run; run({arguments}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "torch" not in done.stdout.split()


def test_plain_sources_are_told_and_counted(photos: Path, capsys):
    assert run(["pretrain", "photos", "--steps", "1"]) == 65  # four images are too few
    said = " ".join(capsys.readouterr().err.split())
    assert "Looking through photos" in said
    assert "4 found: 4 images kept in" in said


def test_what_can_work_passes(tmp_path: Path):
    check({})
    check({"batch_size": "auto", "epochs": 0.5, "optim.clip_grad": None}, tmp_path / "new" / "run")


def test_options_go_before_the_recipe(tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("optim: {lr: 1.0e-3, clip_grad: null}\nsteps: 5\noptions.flip: 0\n")
    wanted = merged({"optim.lr": 0.1, "epochs": 2}, recipe)
    assert wanted == {"optim.lr": 0.1, "optim.clip_grad": None, "options.flip": 0, "epochs": 2}


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [
        ({"steps": 5, "epochs": 1}, UsageError),
        ({"epochs": "ten"}, ConfigError),
        ({"epochs": float("inf")}, ConfigError),
        ({"model.weights": "local-dir:nowhere"}, InputMissing),
        ({"batch_size": "automatic"}, ConfigError),
    ],
)
def test_settings_from_python_are_checked_likewise(wanted: dict, kind: type[Exception]):
    with pytest.raises(kind):
        check(wanted)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(OutputExists, match="no folder to write in"):
        check({}, tmp_path / "run")

"""DnC's runs: divided, trained one after another, the same bits however often they are killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlabel.api import embed, export
from unlabel.data.store import Store
from unlabel.dividing import apportion
from unlabel.errors import ConfigError, DataError, Preempted
from unlabel.pretraining import continue_run, start_run
from unlabel.saliency import saliency as make_masks
from unlabel.terminal import Bar, console
from unlabel.training import checkpoint
from unlabel.training.run import Run

ASKED = {
    "method": "dnc",
    "model.name": "resnet18",
    "model.arguments": {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)},
    "options.hidden": 16,
    "options.base_options": {"hidden": 16, "out": 8},
    "batch_size": 8,
    "steps": 30,
    "evaluations": 2,
    "workers": 0,
    "trackers": [],
}
"""Base, experts and distillation have 10 steps each."""


def train(store: Path, out: Path, **more) -> Run:
    return start_run([str(store)], {**ASKED, **more}, out=out)


def distil(store: Path, out: Path, stages: Path | str, **more) -> Run:
    """Train the distillation alone."""
    own = {name: value for name, value in ASKED.items() if name != "options.base_options"}
    asked = {**own, "steps": 10, "options.stages": str(stages), **more}
    return start_run([str(store)], asked, out=out)


def fingerprint(run: Run) -> dict[str, str]:
    last = checkpoint.latest(run.checkpoints)
    assert last is not None
    manifest = json.loads((last / "manifest.json").read_text())
    return {name: entry["sha256"] for name, entry in manifest.items() if "tensors" in name}


@pytest.fixture(scope="module")
def whole(shapes_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(shapes_store, tmp_path_factory.mktemp("dnc") / "whole")


def stage_runs(run: Run) -> list[Run]:
    return [Run.open(path.parent) for path in sorted(run.path.glob("stages/*/config.yaml"))]


def test_the_stages_share_the_steps_and_the_images(whole: Run, shapes_store: Path):
    base, *experts = stage_runs(whole)
    groups = np.load(whole.path / "stages" / "groups.npy")
    assert len(experts) == groups.max() + 1 >= 2
    assert base.config.steps == whole.config.steps == 10
    assert sum(expert.config.steps for expert in experts) == 10
    assert whole.steps_in_all == 30
    rows = [np.load(expert.config.rows) for expert in experts]
    assert sum(map(len, rows)) == whole.facts["data"]["images"]
    assert len(np.unique(np.concatenate(rows))) == sum(map(len, rows))
    assert all((groups[part] == k).all() for k, part in enumerate(rows))
    assert (groups >= 0).all()  # the held-out images too
    assert all(len(part) >= 16 for part in rows)


def test_stages_are_ordinary_runs_of_the_base_method(whole: Run):
    base, *experts = stage_runs(whole)
    for run in (base, *experts):
        assert run.config.method == "moclr"
        assert run.config.options["hidden"] == 16
        assert run.config.options["strength"] == whole.config.options["strength"] == 0.5
        assert run.config.optim == whole.config.optim
        assert len(run.metrics("train")) == run.config.steps
        assert (run.path / "export" / "model.safetensors").is_file()
    assert base.config.model.weights is None
    assert {run.config.model.weights for run in experts} == {
        f"local-dir:{base.path.absolute() / 'export'}"
    }


def test_the_run_is_like_any_other(whole: Run, shapes_store: Path, tmp_path: Path):
    assert whole.read_json("verdict.json")["state"]
    assert (whole.path / "report.html").is_file()
    assert whole.facts["reasons"]["steps"].startswith("10: of 30 in all; the base has 10")
    assert export(whole, out=tmp_path / "export").is_dir()
    assert embed(whole, shapes_store, out=tmp_path / "vectors.parquet").is_file()


def stop_at(patch: pytest.MonkeyPatch, call: int) -> None:
    """SIGTERM after so many steps of all stages together."""
    steps = iter(range(1, 1000))
    watch = Bar.watch

    def watched(self: Bar, *values: float) -> None:
        watch(self, *values)
        if next(steps) == call:
            os.kill(os.getpid(), signal.SIGTERM)

    patch.setattr(Bar, "watch", watched)


@pytest.mark.parametrize("step", [4, 11, 25], ids=["base", "expert", "distillation"])
def test_a_run_stopped_in_any_stage_ends_alike(
    whole: Run, shapes_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
):
    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Preempted, match=f"--resume {out}$"):
            train(shapes_store, out)
    with console.capture() as told:
        run = continue_run(Run.open(out))
    assert fingerprint(run) == fingerprint(whole)
    student_had_begun = step == 25
    assert ("after step" in " ".join(told.get().split())) == student_had_begun


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from unlabel.pretraining import continue_run
from unlabel.terminal import Bar
from unlabel.training.run import Run
path, *kills = sys.argv[1:]
for at in [*map(int, kills), 0]:
    child = os.fork()
    if child == 0:
        steps = iter(range(1, 1000))
        def watch(self, *_):
            if next(steps) == at:
                os.kill(os.getpid(), signal.SIGKILL)
        Bar.watch = watch
        continue_run(Run.open(path))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) == bool(at), status
"""


def test_kill_9_in_one_stage_after_another_costs_nothing_but_time(
    whole: Run, shapes_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The first kill is in the base, the second in an expert, the third in the distillation."""
    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        with pytest.raises(Preempted):
            train(shapes_store, out)
    subprocess.run([sys.executable, "-c", KILLED, str(out), "3", "13", "12"], check=True)
    assert fingerprint(Run.open(out)) == fingerprint(whole)


def test_a_stage_whose_folder_was_only_begun_is_made_anew(
    whole: Run, shapes_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "begun"
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(Preempted):
            train(shapes_store, out)
    (out / "stages" / "base" / "config.yaml").unlink()
    assert fingerprint(continue_run(Run.open(out))) == fingerprint(whole)


def test_two_processes_train_all_stages_together(shapes_store: Path, tmp_path: Path):
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "pair"
    plain = {**ASKED, "data": str(shapes_store), "precision": "fp32", "steps": 12}
    recipe.write_text(json.dumps(plain))  # which is YAML
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    verb = ["-m", "unlabel", "pretrain", "--recipe", str(recipe), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*torchrun, *verb], check=True, capture_output=True, env=environment)
    pair = Run.open(out)
    base, *experts = stage_runs(pair)
    lengths = [len(run.metrics("train")) for run in (base, *experts, pair)]
    assert sum(lengths) == pair.steps_in_all == 12
    alone = start_run([], {}, out=tmp_path / "alone", recipe=recipe)
    theirs = [row["loss"] for row in stage_runs(alone)[0].metrics("train")]
    assert [r["loss"] for r in base.metrics("train")] == pytest.approx(theirs, rel=1e-3)


def test_another_student_can_learn_from_stages_that_are_there(
    whole: Run, shapes_store: Path, tmp_path: Path
):
    again = distil(shapes_store, tmp_path / "again", whole.path.absolute() / "stages")
    assert not (again.path / "stages").exists()
    assert fingerprint(again) == fingerprint(whole)
    recipe = whole.path / "config.yaml"  # with the stages, and the options that they were made by
    same = start_run([], {}, out=tmp_path / "same", recipe=recipe)
    assert fingerprint(same) == fingerprint(whole)


def test_options_that_only_stages_would_follow_are_refused_beside_stages(
    whole: Run, shapes_store: Path, tmp_path: Path
):
    with pytest.raises(ConfigError, match=r"options\.groups would change nothing"):
        distil(shapes_store, tmp_path / "run", whole.path / "stages", **{"options.groups": 3})
    assert not (tmp_path / "run").exists()


def test_images_that_the_stages_did_not_see_are_refused(
    whole: Run, shapes_store: Path, tmp_path: Path
):
    stages = Path(shutil.copytree(whole.path / "stages", tmp_path / "stages"))
    groups = np.load(stages / "groups.npy")
    groups[[3, 60]] = -1  # as after a run that was given rows
    np.save(stages / "groups.npy", groups)
    with pytest.raises(DataError, match="2 of the 96 images are in no group"):
        distil(shapes_store, tmp_path / "run", stages)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("step", [4, 11, 25], ids=["base", "expert", "distillation"])
def test_a_stopped_run_that_was_moved_goes_on(
    whole: Run, shapes_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
):
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Preempted):
            train(shapes_store, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    run = continue_run(Run.open(tmp_path / "there"))
    assert fingerprint(run) == fingerprint(whole)


def test_a_finished_run_needs_neither_its_stages_nor_its_images(shapes_store: Path, tmp_path: Path):
    store = Path(shutil.copytree(shapes_store, tmp_path / "store"))
    run = train(store, tmp_path / "run", steps=6)
    before = fingerprint(run)
    shutil.rmtree(run.path / "stages")
    shutil.rmtree(store)
    (run.path / "report.html").unlink()
    assert fingerprint(continue_run(Run.open(run.path))) == before
    assert (run.path / "report.html").is_file()
    assert not (run.path / "stages").exists()


def test_stages_of_other_images_are_refused(whole: Run, shapes_store: Path, tmp_path: Path):
    stages = tmp_path / "stages"
    (stages / "base").mkdir(parents=True)
    np.save(stages / "groups.npy", np.zeros(96, np.int64))
    base = Run.open(whole.path / "stages" / "base")
    facts = {"data": {"fingerprint": "another"}}
    (stages / "base").rmdir()
    Run.create(stages / "base", base.config, facts)
    with pytest.raises(DataError, match="other images"):
        distil(shapes_store, tmp_path / "run", stages)
    assert not (tmp_path / "run").exists()


def test_a_base_that_sees_masks_has_a_student_that_does_not(
    shapes_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = Path(shutil.copytree(shapes_store, tmp_path / "store"))
    make_masks(str(store), "spectral", None, preview=False, workers=1, overwrite=False)
    wide = {"options.base_options": {"hidden": 64, "small": 0}, "options.base_method": "relicv2"}
    run = train(store, tmp_path / "run", **wide, steps=12)
    assert "layers" not in run.facts["data"]
    assert all(list(stage.facts["data"]["layers"]) == ["foreground"] for stage in stage_runs(run))
    assert continue_run(Run.open(run.path)).path == run.path
    monkeypatch.chdir(tmp_path)
    other = distil(store, tmp_path / "other", "run/stages", steps=2)
    assert Path(other.config.options["stages"]).is_absolute()


def test_a_run_is_not_removed_for_settings_that_cannot_work(shapes_store: Path, tmp_path: Path):
    small = {k: v for k, v in ASKED.items() if k not in ("options.base_options", "options.hidden")}
    asked = {**small, "method": "simclr", "steps": 2}
    run = start_run([str(shapes_store)], asked, out=tmp_path / "run")
    before = fingerprint(run)
    for change in ({"batch_size": 4, "accumulate": 4}, {"accumulate": 3}, {"batch_size": 1}):
        with pytest.raises(ConfigError, match="batch_size"):
            start_run([str(shapes_store)], {**asked, **change}, out=run.path, overwrite=True)
        assert fingerprint(run) == before


def test_experts_may_start_at_random(shapes_store: Path, tmp_path: Path):
    asked = {"options.experts_from": "random", "options.shares": (1, 2, 1), "steps": 8}
    run = train(shapes_store, tmp_path / "run", **asked)
    _, *experts = stage_runs(run)
    assert {expert.config.model.weights for expert in experts} == {None}
    assert sum(expert.config.steps for expert in experts) == 4


def test_too_few_images_are_told_before_anything_is_written(shapes_store: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"at least 48, 2 batches, and there are 80"):
        train(shapes_store, tmp_path / "run", batch_size=24)
    assert not (tmp_path / "run").exists()


def test_too_few_images_for_all_groups_make_fewer(whole: Run, shapes_store: Path):
    """80 images in groups of at least 16 are 5 groups at most; small ones are merged."""
    assert len(Store.open(shapes_store)) - 16 == 80
    assert 2 <= len(stage_runs(whole)) - 1 <= 5


@given(st.integers(1, 500), st.lists(st.floats(0.1, 10), min_size=1, max_size=8))
def test_steps_are_apportioned_whole(total: int, shares: list[float]):
    parts = apportion(total, shares)
    assert min(parts) >= 1
    exact = np.array(shares) / sum(shares) * total
    if exact.min() >= 1.5:
        assert sum(parts) == total
        assert np.abs(np.array(parts) - exact).max() <= 1

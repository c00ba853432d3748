"""The loop: resumed and killed runs end with the same bits, and what goes wrong ends well."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from unlabel.errors import DataError, InputMissing, Preempted, UsageError
from unlabel.methods.splitmask import SplitMask
from unlabel.pretraining import load_backbone
from unlabel.training import checkpoint
from unlabel.training.loop import looking_points, train
from unlabel.training.run import Run


def finished(path: Path, config) -> Run:
    run = Run.create(path, config, {})
    train(run)
    return run


def fingerprint(run: Run) -> tuple[str, list]:
    """Hashes of the last checkpoint's tensors, and the metrics without their timings."""
    last = checkpoint.latest(run.checkpoints)
    assert last is not None
    manifest = json.loads((last / "manifest.json").read_text())
    hashes = {name: manifest[name]["sha256"] for name in sorted(manifest) if "tensors" in name}
    rows = [{k: v for k, v in row.items() if k != "images_per_second"} for row in run.metrics()]
    return last.name + json.dumps(hashes), rows


def test_the_last_and_the_best_checkpoint_are_kept(tmp_path: Path, small_run):
    run = finished(tmp_path / "run", small_run)
    kept = {path.name for path in run.checkpoints.iterdir()}
    best = min(run.metrics("monitor")[1:], key=lambda row: row["held_out_loss"])["step"]
    assert kept == {"step-00000012", f"step-{best:08d}"}


def test_checkpoints_that_are_to_be_kept_stay_and_change_nothing(tmp_path: Path, small_run):
    plain = finished(tmp_path / "plain", small_run)
    run = finished(tmp_path / "run", small_run.model_copy(update={"keep": (4, 6)}))
    kept = {checkpoint.step_of(path) for path in run.checkpoints.iterdir()}
    assert kept >= {4, 6, 12}
    assert fingerprint(run) == fingerprint(plain)


def test_a_run_logs_every_step_and_ends_with_a_verdict(tmp_path: Path, small_run):
    run = finished(tmp_path / "run", small_run)
    assert [row["step"] for row in run.metrics("train")] == list(range(12))
    assert [row["step"] for row in run.metrics("monitor")] == [0, 3, 6, 9, 12]
    assert {"held_out_loss", "rankme", "feature_std", "knn"} <= set(run.metrics("monitor")[0])
    assert run.read_json("verdict.json")["state"]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path: Path, small_run):
    once, twice = (finished(tmp_path / name, small_run) for name in "ab")
    other = finished(tmp_path / "c", small_run.model_copy(update={"seed": 1}))
    assert fingerprint(once) == fingerprint(twice)
    assert fingerprint(once) != fingerprint(other)


@pytest.mark.parametrize("stop", [1, 5, 6, 11])
def test_a_signal_saves_at_the_next_step_and_the_resumed_run_ends_alike(
    tmp_path: Path, small_run, stop: int
):
    whole = finished(tmp_path / "whole", small_run)

    def interrupt(done: int, *_: float) -> None:
        if done == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    run = Run.create(tmp_path / "stopped", small_run, {})
    with pytest.raises(Preempted, match=f"step {stop} of 12"):
        train(run, interrupt)
    train(Run.open(run.path))
    assert fingerprint(run) == fingerprint(whole)


def test_a_stopped_run_leaves_no_workers_to_whoever_holds_its_error(tmp_path: Path, small_run):
    """They would be waited for when the interpreter ends, and never come."""
    run = Run.create(tmp_path / "run", small_run.model_copy(update={"workers": 1}), {})
    with pytest.raises(Preempted) as held:
        train(run, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert held.value.__traceback__ is not None
    assert not multiprocessing.active_children()


KILLED = """
import os, signal, sys
import torch
import yaml
torch.set_num_threads(1)
from unlabel.training.loop import train
from unlabel.training.run import Run
path, *kills = sys.argv[1:]
for at in [*map(int, kills), 0]:
    child = os.fork()
    if child == 0:
        def watch(done, *_):
            if done == at:
                os.kill(os.getpid(), signal.SIGKILL)
        train(Run.open(path), watch)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) == bool(at), status
"""


@pytest.mark.parametrize("kills", [("2", "4", "8"), ("3", "5", "7", "12")])
def test_kill_9_again_and_again_costs_nothing_but_time(
    tmp_path: Path, small_run, kills: tuple[str, ...]
):
    whole = finished(tmp_path / "whole", small_run)
    run = Run.create(tmp_path / "killed", small_run, {})
    subprocess.run([sys.executable, "-c", KILLED, str(run.path), *kills], check=True)
    assert fingerprint(run) == fingerprint(whole)


def test_micro_batches_give_nearly_the_same_losses(tmp_path: Path, small_run):
    """Not the same bits: sums are taken in another order, and matching sees fewer negatives."""
    config = small_run.model_copy(
        update={"options": {**small_run.options, "match_weight": 0.0}, "precision": "fp32"}
    )
    calm = config.model.model_copy(update={"drop_path": 0.0})
    config = config.model_copy(update={"model": calm})
    whole = finished(tmp_path / "whole", config)
    parts = finished(tmp_path / "parts", config.model_copy(update={"accumulate": 4}))
    ours = [row["loss"] for row in parts.metrics("train")]
    assert ours == pytest.approx([row["loss"] for row in whole.metrics("train")], rel=1e-3)


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run_before_it_is_applied(
    tmp_path: Path, small_run, monkeypatch: pytest.MonkeyPatch, poison: str
):
    forward = SplitMask.forward

    def poisoned(self, batch, progress):
        losses = forward(self, batch, progress)
        if progress.step == 7 and self.training:
            if poison == "loss":
                losses.total = losses.total * float("nan")
            else:
                losses.total.register_hook(lambda grad: grad * float("inf"))
        return losses

    monkeypatch.setattr(SplitMask, "forward", poisoned)
    run = Run.create(tmp_path / "run", small_run, {})
    with pytest.raises(DataError, match="step 7"):
        train(run)
    last = checkpoint.latest(run.checkpoints)
    assert last is not None
    assert last.name == "step-00000006"
    assert not any(name.suffix == ".part" for name in last.iterdir())
    monkeypatch.undo()
    train(run)
    assert fingerprint(run) == fingerprint(finished(tmp_path / "clean", small_run))


def test_bf16_repeats_its_bits_too(tmp_path: Path, small_run):
    config = small_run.model_copy(update={"precision": "bf16"})
    assert fingerprint(finished(tmp_path / "a", config)) == fingerprint(
        finished(tmp_path / "b", config)
    )


@pytest.mark.parametrize("steps", [1, 3, 20, 1000])
def test_the_monitors_look_evenly_and_at_the_end(steps: int):
    points = sorted(looking_points(steps, 20))
    assert points[-1] == steps
    assert len(points) == min(steps, 20)


def test_lars_trains_and_leaves_biases_to_plain_momentum(tmp_path: Path, small_run):
    optim = small_run.optim.model_copy(update={"optimizer": "lars", "lr": 0.1, "betas": (0.9, 0.9)})
    run = finished(tmp_path / "run", small_run.model_copy(update={"optim": optim}))
    losses = [row["loss"] for row in run.metrics("train")]
    assert all(torch.isfinite(torch.tensor(losses)))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_train_as_one_up_to_rounding(tmp_path: Path, small_run, accumulate: int):
    """The same global batches, gathered negatives and averaged gradients (gloo, float32)."""
    calm = small_run.model.model_copy(update={"drop_path": 0.0})
    update = {"precision": "fp32", "model": calm, "accumulate": accumulate}
    if accumulate > 1:  # micro-batches see fewer negatives
        update["options"] = {**small_run.options, "match_weight": 0.0}
    config = small_run.model_copy(update=update)
    alone = finished(tmp_path / "alone", config)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    verb = ["-m", "unlabel", "pretrain", "--recipe", str(recipe), "--out", str(tmp_path / "pair")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*torchrun, *verb], check=True, capture_output=True, env=environment)
    pair = Run.open(tmp_path / "pair")
    for name in ("loss", "grad_norm"):
        ours = [row[name] for row in pair.metrics("train")]
        assert ours == pytest.approx([row[name] for row in alone.metrics("train")], rel=1e-4)
    held = [row["held_out_loss"] for row in pair.metrics("monitor")]
    assert held == pytest.approx([r["held_out_loss"] for r in alone.metrics("monitor")], rel=1e-4)


def test_an_average_of_the_weights_is_kept_resumed_and_loaded(tmp_path: Path, small_run):
    config = small_run.model_copy(update={"average": 0.9})
    whole = finished(tmp_path / "whole", config)
    run = Run.create(tmp_path / "stopped", config, {})
    with pytest.raises(Preempted):
        train(run, lambda done, *_: os.kill(os.getpid(), signal.SIGTERM) if done == 5 else None)
    train(run)
    assert fingerprint(run) == fingerprint(whole)
    plain = load_backbone(finished(tmp_path / "plain", small_run))
    averaged = load_backbone(run)
    assert not torch.equal(averaged.net.pos_embed, plain.net.pos_embed)
    torch.testing.assert_close(averaged.net.pos_embed, plain.net.pos_embed, rtol=0, atol=0.05)


def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path, small_run):
    run = Run.create(tmp_path / "run", small_run.model_copy(update={"trackers": ("mlflow",)}), {})
    with pytest.raises(InputMissing, match="mlflow"):
        train(run)


@pytest.mark.parametrize("done", [4, 6])
def test_weights_that_stop_being_finite_are_never_saved(
    tmp_path: Path, small_run, monkeypatch: pytest.MonkeyPatch, done: int
):
    """An update that spoils the weights after its loss was checked; at a look, and between two."""

    def spoil(self, progress):
        if progress.step == done - 1:
            with torch.no_grad():
                self.head.weight.fill_(float("nan"))

    monkeypatch.setattr(SplitMask, "after_step", spoil)
    run = Run.create(tmp_path / "run", small_run, {})

    def interrupt(at: int, *_: float) -> None:
        if at == done == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(DataError, match=f"step {done}"):
        train(run, interrupt)
    last = checkpoint.latest(run.checkpoints)
    assert last is not None
    assert last.name == "step-00000003"
    assert run.read_json("verdict.json") is None


def test_a_held_out_loss_that_is_not_finite_is_no_verdict(
    tmp_path: Path, small_run, monkeypatch: pytest.MonkeyPatch
):
    def broken(self, batch, progress):
        return torch.tensor(float("nan"))

    monkeypatch.setattr(SplitMask, "validation_loss", broken)
    with pytest.raises(DataError, match="held-out loss"):
        train(Run.create(tmp_path / "run", small_run, {}))


def test_one_process_at_a_time_trains_a_run(tmp_path: Path, small_run):
    run = Run.create(tmp_path / "run", small_run, {})

    def intrude(done: int, *_: float) -> None:
        if done == 4:
            with pytest.raises(UsageError, match=f"process {os.getpid()}"):
                train(Run.open(run.path))

    train(run, intrude)
    assert [row["step"] for row in run.metrics("train")] == list(range(12))


ONE_OF_TWO = """
import os, signal, sys
from unlabel.errors import Preempted
from unlabel.training.loop import train
from unlabel.training.run import Run
rank = os.environ["RANK"]
def watch(done, *_):
    if done == 5 and rank == "1":
        os.kill(os.getpid(), signal.SIGTERM)
try:
    train(Run.open(sys.argv[1]), watch)
except Preempted:
    open(sys.argv[1] + "-stopped-" + rank, "w").close()
"""


def test_a_signal_to_one_of_two_processes_stops_and_saves_both(tmp_path: Path, small_run):
    run = Run.create(tmp_path / "run", small_run, {})
    script = tmp_path / "script.py"
    script.write_text(ONE_OF_TWO)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*torchrun, str(script), str(run.path)]
    subprocess.run(command, check=True, capture_output=True, env=environment, timeout=120)
    assert sorted(path.name for path in tmp_path.glob("run-stopped-*")) == [
        "run-stopped-0",
        "run-stopped-1",
    ]
    last = checkpoint.latest(run.checkpoints)
    assert last is not None
    assert last.name == "step-00000006"  # the processes agree once a step


@pytest.mark.slow
def test_a_compiled_run_learns_the_same(tmp_path: Path, small_run):
    """Over a minute of compiling: `pytest -m slow`."""
    calm = small_run.model.model_copy(update={"drop_path": 0.0})
    config = small_run.model_copy(update={"precision": "fp32", "model": calm})
    plain = finished(tmp_path / "plain", config)
    fast = finished(tmp_path / "fast", config.model_copy(update={"compile": True}))
    ours = [row["loss"] for row in fast.metrics("train")]
    assert ours == pytest.approx([row["loss"] for row in plain.metrics("train")], rel=1e-3)

"""A process that saves is killed at chosen bytes and calls; the next start has old or new, whole.

The same trials are run against savers with known faults, and must find them: a test of
reliability that has never failed would prove nothing.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from torch import nn

import faults
from faults import Disk, Killer, in_child, intercepted, lay_out
from unlabel import atomic
from unlabel.training import checkpoint

OLD, NEW = 1, 2


class Trained:
    """A small network and optimiser, and what both hold after one and after two updates."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.names = checkpoint.parameter_names(self.model)
        self.expected = {}

    def update(self, step: int) -> None:
        self.model(torch.ones(2, 24)).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.expected[step] = self.contents()

    def contents(self):
        states = [self.optimizer.state[p] for p in self.model.parameters()]
        return [t.clone() for t in self.model.state_dict().values()] + [
            state[key].clone() for state in states for key in ("exp_avg", "exp_avg_sq", "step")
        ]


class OurSaver:
    """The saver under test, and how a run that starts again reads what it finds."""

    def save(self, folder, step, trained):
        state = {"note": f"after {step}"}
        checkpoint.save(folder, step, *_of(trained), state)
        checkpoint.prune(folder, {checkpoint.path_of(folder, step)})

    def read(self, folder):
        path = checkpoint.latest(folder)
        fresh = Trained()
        state = checkpoint.load(path, fresh.model, fresh.optimizer)
        assert state == {"note": f"after {state['step']}", "step": state["step"]}
        return state["step"], fresh.contents()


class Overwriting:
    """Planted fault: the same files are written over in place."""

    def save(self, folder, step, trained):
        folder.mkdir(exist_ok=True)
        for name, data in _files(step, trained).items():
            _write(folder / name, data)

    def read(self, folder):
        saved = json.loads((folder / "state.json").read_text())
        tensors = [load_file(folder / f"{part}.safetensors") for part in ("model", "optimizer")]
        fresh = Trained()
        fresh.model.load_state_dict(tensors[0])
        keys = ("exp_avg", "exp_avg_sq", "step")
        states = [tensors[1][f"{key}/{name}"] for name in fresh.names.values() for key in keys]
        return saved["step"], [*fresh.model.state_dict().values(), *states]


class UnlinkingFirst(Overwriting):
    """Planted fault: the new files are written aside, but the old go before the new come."""

    def save(self, folder, step, trained):
        folder.mkdir(exist_ok=True)
        for name, data in _files(step, trained).items():
            _write(folder / f"{name}.new", data)
        for name in _files(step, trained):
            if (folder / name).exists():
                os.unlink(folder / name)
            os.rename(folder / f"{name}.new", folder / name)


class StateFirst(Overwriting):
    """Planted fault: each file is replaced whole, but the three are not replaced as one."""

    def save(self, folder, step, trained):
        folder.mkdir(exist_ok=True)
        for name, data in reversed(_files(step, trained).items()):
            _write(folder / f"{name}.new", data)
            os.replace(folder / f"{name}.new", folder / name)


def _of(trained):
    return trained.model.state_dict(), trained.optimizer, trained.names


def _files(step, trained):
    states = {
        f"{key}/{name}": value
        for parameter, name in trained.names.items()
        for key, value in trained.optimizer.state[parameter].items()
    }
    return {
        "model.safetensors": save(trained.model.state_dict()),
        "optimizer.safetensors": save(states),
        "state.json": json.dumps({"step": step}).encode(),
    }


def _write(path, data):
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.write(handle, data)
    os.fsync(handle)
    os.close(handle)


class Trials:
    """One saver, killed again and again while it replaces the first checkpoint by the second."""

    def __init__(self, saver, root: Path) -> None:
        self.saver, self.root, self.count = saver, root, 0
        self.trained = Trained()
        self.trained.update(OLD)
        saver.save(root / "old", OLD, self.trained)
        self.trained.update(NEW)
        folder, counter = self.fresh_copy(), Killer()
        with intercepted(counter):
            saver.save(folder, NEW, self.trained)
        self.bytes, self.calls = counter.bytes, counter.calls

    def fresh_copy(self) -> Path:
        self.count += 1
        folder = self.root / str(self.count)
        for file in (self.root / "old").rglob("*"):
            if file.is_file():
                copy = folder / file.relative_to(self.root / "old")
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())
        return folder

    def survives(self, **where) -> bool:
        """Whether a start after a kill finds the old or the new checkpoint, bit for bit."""
        folder = self.fresh_copy()

        def killed_save():
            with intercepted(Killer(**where)):
                self.saver.save(folder, NEW, self.trained)

        assert in_child(killed_save) == signal.SIGKILL
        return self.is_whole(folder)

    def is_whole(self, folder) -> bool:
        try:
            step, found = self.saver.read(folder)
        except Exception:
            return False
        expected = self.trained.expected[step]
        return len(found) == len(expected) and all(map(torch.equal, found, expected))

    def offsets(self, count: int) -> list[int]:
        """Evenly spread bytes of all that is written, the first and the last among them."""
        return [round(i * (self.bytes - 1) / (count - 1)) for i in range(count)]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_killed_at_any_byte_leaves_old_or_new(tmp_path):
    trials = Trials(OurSaver(), tmp_path)
    offsets = trials.offsets(64)
    lost = [n for n in offsets if not trials.survives(byte=n)]
    assert lost == []


def test_killed_before_any_call_leaves_old_or_new(tmp_path):
    trials = Trials(OurSaver(), tmp_path)
    assert trials.calls > 30
    lost = [n for n in range(trials.calls) if not trials.survives(call=n)]
    assert lost == []


def test_next_save_works_after_a_kill_and_clears_what_it_left(tmp_path):
    trials = Trials(OurSaver(), tmp_path)
    assert trials.survives(byte=trials.bytes // 2)
    folder = tmp_path / str(trials.count)
    (left,) = folder.glob(".unlabel-*")
    os.utime(left, (time.time() - 1e6,) * 2)
    trials.saver.save(folder, NEW, trials.trained)
    assert [path.name for path in folder.iterdir()] == ["step-00000002"]
    assert trials.is_whole(folder)


def test_trials_find_overwriting(tmp_path):
    trials = Trials(Overwriting(), tmp_path)
    offsets = trials.offsets(40)
    failed = [n for n in offsets if not trials.survives(byte=n)]
    assert len(failed) >= 0.9 * len(offsets)


@pytest.mark.parametrize("saver", [UnlinkingFirst, StateFirst])
def test_trials_find_wrong_order(tmp_path, saver):
    trials = Trials(saver(), tmp_path)
    assert not all(trials.survives(call=n) for n in range(trials.calls))


def _power_cuts(trials: Trials) -> list[tuple[int, str, str]]:
    """Every moment and extreme of a power cut that loses a checkpoint once acknowledged."""
    folder = trials.fresh_copy()
    disk = Disk(folder)
    with intercepted(disk):
        checkpoint.save(folder, NEW, *_of(trials.trained), {"note": "after 2"})
    acknowledged = len(disk.log)
    with intercepted(disk):
        checkpoint.prune(folder, {checkpoint.path_of(folder, NEW)})
    lost = []
    for moment in range(len(disk.log) + 1):
        for names, data in (("all", "all"), ("all", "durable"), ("durable", "durable")):
            trials.count += 1
            left = trials.root / str(trials.count)
            lay_out(disk.after(moment), left, names, data)
            whole = trials.is_whole(left)
            if not whole or (moment >= acknowledged and checkpoint.latest(left).name[-1] != "2"):
                lost.append((moment, names, data))
    return lost


@pytest.mark.filterwarnings("ignore:Checkpoint .* is damaged:RuntimeWarning")
def test_power_cut_at_any_call_leaves_old_or_new(tmp_path):
    assert _power_cuts(Trials(OurSaver(), tmp_path)) == []


@pytest.mark.filterwarnings("ignore:Checkpoint .* is damaged:RuntimeWarning")
def test_power_cuts_find_files_not_flushed(tmp_path, monkeypatch):
    trials = Trials(OurSaver(), tmp_path)
    monkeypatch.setattr(faults, "CALLS", [name for name in faults.CALLS if name != "fsync"])
    assert _power_cuts(trials)


@pytest.mark.filterwarnings("ignore:Checkpoint .* is damaged:RuntimeWarning")
def test_power_cuts_find_names_not_flushed(tmp_path, monkeypatch):
    trials = Trials(OurSaver(), tmp_path)
    monkeypatch.setattr(atomic, "_flush_folder", lambda folder: None)
    assert _power_cuts(trials)


def test_order_of_calls(tmp_path):
    trials = Trials(OurSaver(), tmp_path)
    folder = trials.fresh_copy()
    disk = Disk(folder)
    with intercepted(disk):
        trials.saver.save(folder, NEW, trials.trained)
    written = ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
    files = [f"{call} {name}" for name in written for call in ("create", "write", "fsync")]
    assert disk.steps() == [
        "mkdir TMP",
        *files,
        "fsync TMP",
        "rename TMP step-00000002",
        f"fsync {folder.name}",
        "rename step-00000001 TMP",
        "rmdir TMP",
    ]

"""Where parts are done: here while it is quick, then in processes."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from unlabel.data import processes
from unlabel.errors import OutOfMemory

PARTS = list(range(1, 5))


def note(folder: Path, part: int) -> int:
    """Leave the process that did it."""
    (folder / str(part)).write_text(str(os.getpid()))
    return part


def die(part: int) -> int:
    os._exit(9)


def done(step: object, workers: int) -> None:
    processes.count_through("", step, PARTS, total=10, done=0, workers=workers, progress=False)


def who(folder: Path) -> list[int]:
    return [int((folder / str(part)).read_text()) for part in PARTS]


def test_quick_work_needs_no_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "SOON", 1e6)
    done(partial(note, tmp_path), workers=2)
    assert who(tmp_path) == [os.getpid()] * 4


def test_work_that_lasts_goes_to_processes(tmp_path, monkeypatch):
    times = iter([0.0, 0.5, 2.0])
    monkeypatch.setattr(processes.time, "monotonic", lambda: next(times))
    pool = []
    monkeypatch.setattr(
        processes, "_over_processes", lambda step, parts, workers: pool.extend(parts) or []
    )
    done(partial(note, tmp_path), workers=2)
    assert [int(path.name) for path in tmp_path.iterdir()] == [1]
    assert pool == [2, 3, 4]


def test_other_processes_do_it(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "SOON", -1)
    done(partial(note, tmp_path), workers=2)
    assert os.getpid() not in who(tmp_path)


def test_a_process_that_dies_is_told(monkeypatch):
    monkeypatch.setattr(processes, "SOON", -1)
    with pytest.raises(OutOfMemory, match="--workers 1"):
        done(die, workers=2)

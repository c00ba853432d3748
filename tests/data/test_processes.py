"""Where parts are done: here while it is quick, then in processes."""

from __future__ import annotations

import gc
import os
import sys
from functools import partial
from multiprocessing.queues import SimpleQueue
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


@pytest.mark.parametrize(
    ("clock", "here"),
    [
        ([0.0, 0.0, 0.9, 1.8, 2.7], [1, 2, 3, 4]),  # soon done
        ([0.0, 0.0, 1.2, 2.4, 3.6], [1, 2, 3, 4]),  # takes a while, but little is left
        ([0.0, 0.0, 1.5], [1]),
        ([0.0, 0.0, 0.8, 5.0], [1, 2]),  # thought to be quick at first
    ],
)
def test_work_goes_to_processes_where_much_is_left(tmp_path, monkeypatch, clock, here):
    times = iter(clock)
    monkeypatch.setattr(processes.time, "monotonic", lambda: next(times))
    pool = []
    monkeypatch.setattr(
        processes, "_over_processes", lambda step, parts, workers: pool.extend(parts) or []
    )
    done(partial(note, tmp_path), workers=2)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == here
    assert here + pool == PARTS


@pytest.fixture
def at_once(monkeypatch):
    """Processes are started before anything is done."""
    monkeypatch.setattr(processes, "SOON", -1)
    monkeypatch.setattr(processes, "WORTH", -1)


@pytest.mark.usefixtures("at_once")
def test_other_processes_do_it(tmp_path):
    done(partial(note, tmp_path), workers=2)
    assert os.getpid() not in who(tmp_path)


@pytest.mark.usefixtures("at_once")
def test_a_process_that_dies_is_told():
    with pytest.raises(OutOfMemory, match="--workers 1"):
        done(die, workers=2)


def loaded(answers: SimpleQueue) -> None:
    """What a reader has before it does anything, and whether its collector looks through that."""
    answers.put(("unlabel.data.views" in sys.modules, "pandas" in sys.modules))
    answers.put((gc.isenabled(), gc.get_freeze_count() > len(gc.get_objects())))


def test_readers_find_everything_imported_and_frozen():
    context = processes.readers()
    answers = context.SimpleQueue()
    reader = context.Process(target=loaded, args=(answers,))
    reader.start()
    assert answers.get() == (True, True)
    assert answers.get() == (True, True)
    reader.join()

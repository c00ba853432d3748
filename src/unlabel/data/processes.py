"""Long work in parts: over processes, with a progress bar, alone in its folder."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, TypeVar

import cv2
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unlabel.errors import OutOfMemory, OutputExists, StorageError

PARTS = 64
"""Parts that a set is cut into, as long as ``SHORTEST`` and ``LONGEST`` items allow it."""
SHORTEST, LONGEST = 32, 4096
SOON = 1.0
"""Seconds of work after which it is judged how much is left."""
WORTH = 4.0
"""Seconds of work left from which processes are started; that takes each about two."""

P = TypeVar("P")


def part_length(items: int) -> int:
    """Items of a part, by the number of items of the whole."""
    return min(max(items // PARTS, SHORTEST), LONGEST)


def count_through(
    title: str,
    step: Callable[[P], int],
    parts: Sequence[P],
    *,
    total: int,
    done: int,
    workers: int,
    progress: bool,
) -> None:
    """Do ``step``, which gives the number of its items, for every part, with a progress bar.

    Args:
        title: what is being done.
        step: fit to be sent to another process where there are several.
        parts: those that are left.
        total: items of all parts.
        done: items of the parts that were finished before.
        workers: processes.
        progress: whether to show the bar on standard error.

    Raises:
        OutOfMemory: a process died.
    """
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("", total=total, completed=done)
        for count in _each(step, parts, workers):
            bar.advance(task, count)


def _each(step: Callable[[P], int], parts: Sequence[P], workers: int) -> Iterator[int]:
    """Do ``step`` for every part: the first ones here, then over processes if much is left."""
    began = time.monotonic()
    for done, part in enumerate(parts):
        spent = time.monotonic() - began
        left = spent * (len(parts) - done) / max(done, 1)
        if workers > 1 and len(parts) - done > 1 and spent > SOON and left > WORTH:
            yield from _over_processes(step, parts[done:], workers)
            return
        yield step(part)


def _over_processes(step: Callable[[P], int], parts: Sequence[P], workers: int) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")  # holds none of this one's threads and locks
    count = min(workers, len(parts))
    try:
        with ProcessPoolExecutor(count, mp_context=context, initializer=_start) as pool:
            yield from pool.map(step, parts)
    except BrokenProcessPool:
        raise OutOfMemory(
            "A process that decoded images died, most often for want of memory. Run the same "
            "command again with --workers 1; finished parts are kept. (In a script of your own, "
            'make the call below: if __name__ == "__main__":)'
        ) from None


def readers() -> BaseContext:
    """Where processes that read batches come from: a server without threads that has imported
    everything once.

    Forking from this process is not safe beside its threads, and importing torch in each reader
    takes seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["unlabel.data.preloaded"])
    return context


def start_server() -> None:
    """Have the server of `readers` import already, beside what this process does meanwhile."""
    if cores() > 1:
        readers()
        forkserver.ensure_running()


def _start() -> None:
    """One thread a process, and none that outlives a killed parent."""
    cv2.setNumThreads(0)
    leave_with_parent()


def leave_with_parent() -> None:
    """End this process once the one that wanted it is gone, even by SIGKILL.

    A reader's parent by number is the server, which stays for as long as a reader does.
    """
    if parent := multiprocessing.parent_process():
        wait = partial(_leave_with, parent)
        threading.Thread(target=wait, daemon=True).start()


def _leave_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """Hold the lock beside ``work``; say what to do after Ctrl-C or a failing disk.

    Raises:
        OutputExists: another process works there.
        StorageError: the disk is full or failing.
    """
    lock = FileLock(work.with_name(work.name + ".lock"), timeout=0)
    try:
        work.parent.mkdir(parents=True, exist_ok=True)
        with lock:
            try:
                yield
            finally:
                Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout:
        raise OutputExists(f"Another process is writing {work}. Wait for it.") from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "Interrupted. What is finished is kept; the same command goes on from there."
        ) from None
    except OSError as error:
        raise StorageError(
            f"Writing {work} failed: {error.strerror or error}. What is finished is kept; make "
            "room and run the same command again."
        ) from error


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

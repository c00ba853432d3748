"""One process (or launch of several) at a time trains a run, or works on a study."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout

from unlabel.errors import UsageError
from unlabel.training.run import Run
from unlabel.training.setup import processes


@contextmanager
def sole_trainer(run: Run) -> Iterator[None]:
    """Hold the run's lock while training, in whichever of its processes is the first.

    Raises:
        UsageError: another process holds it; says which, and where.
    """
    with sole_owner(run.path) if processes().is_main_process else nullcontext():
        yield


@contextmanager
def sole_owner(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; the system lets go of it should the process be killed.

    Raises:
        UsageError: another process holds it; says which, and where.
    """
    lock, holder = FileLock(folder / ".lock", timeout=0), folder / ".holder"
    try:
        lock.acquire()
    except Timeout:
        who = holder.read_text() if holder.is_file() else "another process"
        raise UsageError(
            f"{folder} is being trained by {who}. Wait for it, or stop it first."
        ) from None
    try:
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()

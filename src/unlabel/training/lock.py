"""One process (or launch of several) at a time trains a run."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from unlabel.errors import UsageError
from unlabel.training.run import Run
from unlabel.training.setup import processes


@contextmanager
def sole_trainer(run: Run) -> Iterator[None]:
    """Hold the run's lock while training; the system lets go of it should the process be killed.

    Raises:
        UsageError: another process holds it; says which, and where.
    """
    if not processes().is_main_process:
        yield
        return
    lock, holder = FileLock(run.path / ".lock", timeout=0), run.path / ".holder"
    try:
        lock.acquire()
    except Timeout:
        who = holder.read_text() if holder.is_file() else "another process"
        raise UsageError(
            f"{run.path} is being trained by {who}. Wait for it, or stop it first."
        ) from None
    try:
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()

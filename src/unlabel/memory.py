"""Memory that is kept as it is, where looking after it would only take time.

A training step asks for the same large blocks as the step before it. glibc gives such blocks back
to the system as soon as they are free, and the system then clears every page anew: on a processor,
a tenth to a third of a step's time goes into that.

Python's collector looks through the 400,000 objects that torch and timm consist of, again and again
while they load and once more as the process ends.
"""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Numbers of glibc's options (mallopt(3))."""
KEEP = {MMAP_MAX: 0, TRIM_THRESHOLD: -1}
"""No block is the system's own, and none is given back."""
GIVE = {MMAP_MAX: 65_536, MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20}
"""glibc's own number of blocks, and the sizes in bytes that its thresholds grow to by themselves.
"""

_settled = threading.Event()
"""Whether this process is a command of ours, and no notebook of somebody else's."""


@contextmanager
def kept_memory(device: str) -> Iterator[None]:
    """Within it, memory that is freed stays with this process; after it, it is given back.

    Args:
        device: where is computed; nothing is done for accelerators, whose memory torch keeps, nor
            where the C library is not glibc.
    """
    libc = _glibc() if device == "cpu" else None
    if libc is None:
        yield
        return
    _set(libc, KEEP)
    try:
        yield
    finally:
        _set(libc, GIVE)
        libc.malloc_trim(0)


@contextmanager
def uncollected() -> Iterator[None]:
    """Within it Python's collector rests: for loading modules, which are there to stay.

    In a process that `settle` was called in, it never looks at them later either.
    """
    resting = not gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if _settled.is_set():
            gc.freeze()
        if not resting:
            gc.enable()


def settle() -> None:
    """Have the collector pass over what this process has by now, and over what it loads later.

    For processes of our own alone: garbage that is there by then is never found.
    """
    _settled.set()
    gc.freeze()


def _set(libc: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        libc.mallopt(option, value)


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, where it is glibc."""
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no such library
        return None
    return libc if hasattr(libc, "gnu_get_libc_version") else None

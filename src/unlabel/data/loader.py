"""The stream of batches that training reads: made ahead in worker processes, finished on device."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from functools import partial

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from unlabel.data.processes import leave_with_parent, readers
from unlabel.data.spec import Batch
from unlabel.data.views import Batches, finish
from unlabel.errors import DataError

TIMEOUT, POLL = 120, 5
"""Seconds without a batch after which workers count as hung, and between looks at them."""


def stream(
    batches: Batches, start: int, stop: int, *, workers: int, device: torch.device | str
) -> Generator[Batch, None, None]:
    """Batches ``start`` to ``stop - 1``, normalised, on ``device``: the same for any ``workers``.

    Args:
        batches: whose numbers are asked for.
        start: the first number.
        stop: one past the last.
        workers: processes that read and crop ahead; 0 does it here.
        device: where colours are applied and the batch is wanted.

    Raises:
        DataError: a worker died or hung.
    """
    device = torch.device(device)
    info = batches.store.info
    mean = torch.tensor(info.mean, device=device)
    std = torch.tensor(info.std, device=device)
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        timeout=POLL if workers else 0,
        worker_init_fn=_start_worker,
        multiprocessing_context=readers() if workers else None,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # else the first batch would draw from the global one
    )
    read = iter(partial(_next, iter(loader)), None)
    ready = (finish(batch.to(device), batches.spec, mean, std) for batch in read)
    return _ahead(ready, device) if device.type == "cuda" else ready


def _ahead(ready: Iterator[Batch], device: torch.device) -> Generator[Batch, None, None]:
    """The same batches, each copied and coloured on a stream of its own while the one before it is
    used.
    """
    side, main = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    side.wait_stream(main)
    before = None
    while True:
        with torch.cuda.stream(side):
            batch = next(ready, None)
        if before is not None:
            yield before
        if batch is None:
            return
        main.wait_stream(side)
        for tensor in _tensors(batch):
            tensor.record_stream(main)  # so that its memory is not used anew before then
        before = batch


def _tensors(batch: Batch) -> list[Tensor]:
    """All that a finished batch holds on its device."""
    groups = (batch.views, batch.masks, batch.segments)
    found = [tensor for group in groups for tensor in group.values()]
    return found if batch.labels is None else [*found, batch.labels]


def _next(iterator: Iterator[Batch]) -> Batch | None:
    """The next batch. Only between waits does torch see that a worker is gone."""
    for _ in range(TIMEOUT // POLL):
        try:
            return next(iterator, None)
        except RuntimeError as error:
            if "exited unexpectedly" in str(error):
                raise DataError(
                    f"A process that reads images died: {str(error).splitlines()[0]} "
                    "Run again with --set workers=0 to see why, or with fewer if memory ran out. "
                    'A script of your own must start under `if __name__ == "__main__":`.'
                ) from None
            if "timed out" not in str(error):
                raise
    raise DataError(
        f"No batch came in {TIMEOUT} s: a process that reads images hangs, or the disk does. "
        "Run again with --set workers=0 to see where."
    )


def _start_worker(worker: int) -> None:
    """One thread, and deaf to signals that reach the whole group: the main process acts on them."""
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGINT)):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    leave_with_parent()

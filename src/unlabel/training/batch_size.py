"""The largest batch that the device's memory holds, found by one trial step after another.

One process tries alone: methods that gather from all processes would wait for ever in a trial step
in which another process ran out of memory.
"""

from __future__ import annotations

from functools import partial

import torch
from accelerate.utils import find_executable_batch_size

from unlabel.config import PretrainConfig
from unlabel.data.loader import stream
from unlabel.data.views import Batches
from unlabel.errors import OutOfMemory, UsageError
from unlabel.machine import this_machine
from unlabel.methods.base import Progress
from unlabel.training.optim import build_optimizer
from unlabel.training.setup import autocast, build, precision, processes
from unlabel.training.split import split_store

LARGEST = 4096
"""Images of a step, at most: what the published recipes are tuned up to."""


def largest_batch(config: PretrainConfig) -> int:
    """Images of the largest step that works, a power of two; starts high and halves.

    On a processor, where memory is rarely what limits, it stops at a quarter of the images.

    Raises:
        UsageError: several processes train together.
        OutOfMemory: not even one image fits.
    """
    if (count := processes().num_processes) > 1:
        raise UsageError(
            "--batch-size auto is for one process. Try it once with one, and give these "
            f"--batch-size {count} times what it finds."
        )
    learnt_from, _ = split_store(config)
    start = min(LARGEST, 1 << max(0, (len(learnt_from) // 4).bit_length() - 1))
    attempt = find_executable_batch_size(
        partial(_one_step, config=config),
        starting_batch_size=start,
        reduce_batch_size_fn=_halved(start),
    )
    try:
        return attempt()
    except RuntimeError as error:
        if "No executable batch size" not in str(error):
            raise
        raise OutOfMemory(
            "Not even one image fits this device's memory. "
            "Choose a smaller --model or --image-size."
        ) from None


def _halved(start: int):
    """What accelerate asks for the next size to try."""
    sizes = iter([start >> i for i in range(1, start.bit_length() + 1)])
    return lambda: next(sizes)


def _one_step(batch_size: int, *, config: PretrainConfig) -> int:
    device = torch.device(this_machine().device)
    learnt_from, _ = split_store(config)
    method = build(config, learnt_from)
    batches = Batches(learnt_from, method.spec, seed=config.seed, batch_size=batch_size)
    [batch] = stream(batches, 0, 1, workers=0, device=device)
    method.prepare(batch.views[next(iter(method.spec.crops))][:, 0].cpu())
    method.to(device)
    optimizer = build_optimizer(method, config.optim)
    with autocast(device.type, precision(config)):
        loss = method(batch, Progress(0, config.steps)).total
    loss.backward()
    optimizer.step()
    return batch_size

"""Learning rate and weight decay as functions of the step: resuming needs no memory of them."""

from __future__ import annotations

import math
from functools import partial

from unlabel.config import OptimConfig

STEP_AT = 7 / 8
"""Share of a ``step`` run at the full rate (data-scaling study, section 1)."""
POWERS = {"linear": 1.0, "sqrt": 0.5, "none": 0.0}
"""Of the batch size in a learning rate."""


def weight_decay(optim: OptimConfig, step: int, steps: int) -> float:
    """Weight decay of update ``step`` (from 0) of ``steps``: along a cosine if it changes."""
    if optim.weight_decay_end is None:
        return optim.weight_decay
    first, last = optim.weight_decay, optim.weight_decay_end
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * step / steps))


def warmup_steps(optim: OptimConfig, steps: int) -> int:
    """Updates over which the learning rate of a run of ``steps`` climbs."""
    return round(optim.warmup * steps) if optim.warmup_steps is None else optim.warmup_steps


def shared_steps(optim: OptimConfig, short: int, long: int, batch_size: int) -> int:
    """Updates that begin a run of ``short`` and one of ``long`` alike: the same rates and decays.

    0 for ``cosine``, which has the length of the run in every rate after the warm-up, and for a
    weight decay that changes.
    """
    if optim.schedule == "cosine" or optim.weight_decay_end is not None:
        return 0
    rate = partial(learning_rate, optim, batch_size=batch_size)
    return next((k for k in range(short) if rate(k, short) != rate(k, long)), short)


def scale_lr(optim: OptimConfig, batch_size: int) -> float:
    """Factor of the learning rates, which are those at 256 images."""
    return (batch_size / 256) ** POWERS[optim.scale_lr]


def learning_rate(optim: OptimConfig, step: int, steps: int, batch_size: int) -> float:
    """Learning rate of update ``step`` (from 0) of a run of ``steps`` updates.

    It climbs linearly over ``warmup_steps`` updates, then follows the schedule:
    ``cosine`` to ``min_lr``; ``step`` to a tenth for the last eighth; ``constant`` and then
    linearly towards zero over the last ``optim.decay``. Peak and floor scale with the batch.
    """
    scale = scale_lr(optim, batch_size)
    peak, floor = optim.lr * scale, optim.min_lr * scale
    warmup = warmup_steps(optim, steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if optim.schedule == "step":
        return peak if step < STEP_AT * steps else peak * 0.1
    if optim.schedule == "constant":
        return peak * min(1.0, (steps - step) / (optim.decay * steps))
    done = (step - warmup) / (steps - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * done))

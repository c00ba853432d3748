"""What a study will cost on this machine, from a few steps of every method and model."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from unlabel.config import PretrainConfig
from unlabel.errors import Preempted
from unlabel.study.plan import Cost
from unlabel.training import checkpoint
from unlabel.training.exported import load_exported
from unlabel.training.loop import train
from unlabel.training.run import Run

STEPS = 8
"""Updates to measure by. The first pays for what is done once."""


def measure_cost(config: PretrainConfig) -> Cost:
    """Train a few steps of a run like ``config`` aside, and forget them.

    Raises:
        OutOfMemory: a step does not fit the device.
        DataError: the first steps already diverge.
    """
    small = config.model_copy(update={"steps": STEPS, "evaluations": 1, "keep": ()})
    ticks = []
    with TemporaryDirectory(prefix="unlabel-study-") as folder:
        run = Run.create(Path(folder) / "run", small, {})
        try:
            train(run, lambda *_: ticks.append(time.perf_counter()))
        except (KeyboardInterrupt, Preempted) as stop:
            raise type(stop)(
                "Stopped while a few steps were measured; nothing was begun."
            ) from None
        end = time.perf_counter()
        newest = checkpoint.path_of(run.checkpoints, STEPS)
        size = sum(file.stat().st_size for file in newest.iterdir())
        parameters = sum(p.numel() for p in load_exported(newest).parameters())
    step = median(after - before for before, after in pairwise(ticks))
    return Cost(step=step, look=end - ticks[-1], checkpoint=size, parameters=parameters)

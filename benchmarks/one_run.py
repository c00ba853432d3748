"""One pre-training in this process, ours or lightly_train's: the seconds of its steps, as JSON.

    python benchmarks/one_run.py unlabel|lightly_train METHOD IMAGES OUT BATCH STEPS WORKERS
        PRECISION wall|busy

against_lightly_train.py runs it with the interpreter of either. The last line that it prints is a
list: the clock after each update of the weights. Ours is started by its command line, theirs by
their function. ``busy`` reads the processor's time of this process instead of the clock on the
wall.
"""

from __future__ import annotations

import atexit
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SCALE, SMALL_SCALE, SMALL = (0.14, 1.0), (0.05, 0.14), 6
"""DINO's crops for ResNets, which are lightly_train's defaults."""


@dataclass(frozen=True)
class Asked:
    """What both sides are asked for."""

    method: str
    images: str
    out: str
    batch: int
    steps: int
    workers: int
    precision: str


def main() -> None:
    side, method, images, out, batch, steps, workers, precision, clock = sys.argv[1:]
    asked = Asked(method, images, out, int(batch), int(steps), int(workers), precision)
    read = time.process_time if clock == "busy" else time.perf_counter
    times: list[float] = []
    atexit.register(lambda: print(json.dumps(times)))

    def watch_updates() -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        register_optimizer_step_post_hook(lambda *_: times.append(read()))

    (unlabel if side == "unlabel" else lightly_train)(asked, watch_updates)


def unlabel(asked: Asked, watch_updates: Callable[[], None]) -> None:
    import unlabel.asked
    import unlabel.cli

    check = unlabel.asked.check

    def check_and_watch(*arguments: Any) -> None:
        check(*arguments)
        watch_updates()  # not before: the command line has its own time and way to load torch

    unlabel.asked.check = check_and_watch
    settings: dict[str, Any] = {
        "model.name": "resnet18",
        "model.image_size": 224,
        "batch_size": asked.batch,
        "steps": asked.steps,
        "workers": asked.workers,
        "precision": asked.precision,
        "evaluations": 1,  # they write one checkpoint, at the end of the epoch
    }
    if asked.method == "dino":
        settings |= {"options.scale": SCALE, "options.small": SMALL}
        settings |= {"options.small_scale": SMALL_SCALE}
    arguments = ["pretrain", asked.images, "--out", asked.out, "--method", asked.method]
    for name, value in settings.items():
        arguments += ["--set", f"{name}={json.dumps(value)}"]
    unlabel.cli.main(arguments)


def lightly_train(asked: Asked, watch_updates: Callable[[], None]) -> None:
    from lightly_train import pretrain

    watch_updates()
    pretrain(
        out=asked.out,
        data=asked.images,
        model="torchvision/resnet18",
        method=asked.method,
        epochs=1,
        batch_size=asked.batch,
        num_workers=asked.workers,
        precision=asked.precision,
    )


if __name__ == "__main__":
    main()

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
from functools import partial
from typing import Any

SCALE, SMALL_SCALE, SMALL = (0.14, 1.0), (0.05, 0.14), 6
"""DINO's crops for ResNets, which are lightly_train's defaults."""


def main() -> None:
    side, method, images, out, batch, steps, workers, precision, clock = sys.argv[1:]
    read = time.process_time if clock == "busy" else time.perf_counter
    times: list[float] = []
    atexit.register(lambda: print(json.dumps(times)))
    pretrain = unlabel if side == "unlabel" else lightly_train
    note = partial(tell_updates, lambda *_: times.append(read()))
    pretrain(note, method, images, out, int(batch), int(steps), int(workers), precision)


def tell_updates(told: Callable[..., None]) -> None:
    """Call ``told`` after each update of the weights."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    register_optimizer_step_post_hook(told)


def unlabel(
    note: Callable[[], None],
    method: str,
    images: str,
    out: str,
    batch: int,
    steps: int,
    workers: int,
    precision: str,
) -> None:
    import unlabel.asked
    import unlabel.cli

    check = unlabel.asked.check

    def check_and_note(*asked: Any) -> None:
        check(*asked)
        note()  # not before: the command line has a time of its own to load torch

    unlabel.asked.check = check_and_note
    asked: dict[str, Any] = {
        "workers": workers,
        "precision": precision,
        "evaluations": 1,  # they write one checkpoint, at the end of the epoch
    }
    if method == "dino":
        asked |= {"options.scale": SCALE, "options.small": SMALL}
        asked |= {"options.small_scale": SMALL_SCALE}
    arguments = ["pretrain", images, "--out", out, "--method", method, "--model", "resnet18"]
    arguments += ["--image-size", "224", "--batch-size", str(batch), "--steps", str(steps)]
    for name, value in asked.items():
        arguments += ["--set", f"{name}={json.dumps(value)}"]
    unlabel.cli.main(arguments)


def lightly_train(
    note: Callable[[], None],
    method: str,
    images: str,
    out: str,
    batch: int,
    steps: int,
    workers: int,
    precision: str,
) -> None:
    from lightly_train import pretrain

    note()
    pretrain(
        out=out,
        data=images,
        model="torchvision/resnet18",
        method=method,
        epochs=1,
        batch_size=batch,
        num_workers=workers,
        precision=precision,
    )


if __name__ == "__main__":
    main()

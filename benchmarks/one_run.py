"""One pre-training in this process, ours or lightly_train's: the seconds of its steps, as JSON.

    python benchmarks/one_run.py unlabel|lightly_train METHOD IMAGES OUT BATCH STEPS WORKERS
        PRECISION wall|busy

against_lightly_train.py runs it with the interpreter of either. The last line that it prints is a
list: the clock after each update of the weights. ``busy`` reads the processor's time of this
process instead of the clock on the wall.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook

SCALE, SMALL_SCALE, SMALL = (0.14, 1.0), (0.05, 0.14), 6
"""DINO's crops for ResNets, which are lightly_train's defaults."""


def main() -> None:
    side, method, images, out, batch, steps, workers, precision, clock = sys.argv[1:]
    read = time.process_time if clock == "busy" else time.perf_counter
    times: list[float] = []
    register_optimizer_step_post_hook(lambda *_: times.append(read()))
    pretrain = unlabel if side == "unlabel" else lightly_train
    pretrain(method, images, out, int(batch), int(steps), int(workers), precision)
    print(json.dumps(times))


def unlabel(
    method: str, images: str, out: str, batch: int, steps: int, workers: int, precision: str
) -> None:
    from unlabel.api import pretrain

    crops: dict[str, Any] = {"options.scale": SCALE}
    crops |= {"options.small": SMALL, "options.small_scale": SMALL_SCALE}
    pretrain(
        images,
        method=method,
        model="resnet18",
        image_size=224,
        batch_size=batch,
        steps=steps,
        out=out,
        settings={
            "workers": workers,
            "precision": precision,
            "evaluations": 1,  # they write one checkpoint, at the end of the epoch
            **(crops if method == "dino" else {}),
        },
    )


def lightly_train(
    method: str, images: str, out: str, batch: int, steps: int, workers: int, precision: str
) -> None:
    from lightly_train import pretrain

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

"""Every step's scalars, taken off the device in batches and checked before anything is saved."""

from __future__ import annotations

import math
import time

import torch
from accelerate import Accelerator
from torch import Tensor

from unlabel.errors import Diverged
from unlabel.training.run import Run
from unlabel.training.signals import StopRequest

INTERVAL = 20
"""Steps between transfers from an accelerator; on a processor every step is free to read."""


class Recorder:
    """Collects scalars as device tensors; ``flush`` moves them together, checks and logs them.

    ``stopping`` says whether any process had been asked to stop by the last flush: the same answer
    in all of them, so that all stop after the same step.
    """

    def __init__(self, run: Run, accelerator: Accelerator, stop: StopRequest) -> None:
        self.run = run
        self.accelerator = accelerator
        self.stop = stop
        self.stopping = False
        self.interval = 1 if accelerator.device.type == "cpu" else INTERVAL
        self.waiting: list[tuple[int, float, dict[str, Tensor]]] = []
        self.images = 0
        self.since = time.perf_counter()
        self.loss = math.nan
        self.speed = 0.0

    def add(self, step: int, lr: float, scalars: dict[str, Tensor], images: int) -> None:
        """Note one step's scalars; flushes when ``interval`` steps wait."""
        self.waiting.append((step, lr, scalars))
        self.images += images
        if len(self.waiting) >= self.interval:
            self.flush()

    def flush(self) -> None:
        """Write what waits to ``metrics.jsonl`` and the trackers.

        Raises:
            Diverged: a loss or gradient was not a finite number; names the step and what to do.
        """
        if not self.waiting:
            return
        rows = self._rows()
        now = time.perf_counter()
        self.speed = self.images / max(now - self.since, 1e-9)
        self.images, self.since = 0, now
        self.loss = rows[-1]["loss"]
        if self.accelerator.is_main_process:
            self.run.append_metrics(row | {"images_per_second": self.speed} for row in rows)
        for row in rows:
            values = {f"train/{k}": v for k, v in row.items() if k not in ("kind", "step")}
            self.accelerator.log(values, step=row["step"])
        self._refuse_what_is_not_finite(rows)

    def monitor(self, step: int, values: dict[str, float]) -> None:
        """Log one look at the held-out images after ``step`` updates."""
        if self.accelerator.is_main_process:
            self.run.append_metrics([{"kind": "monitor", "step": step, **values}])
        self.accelerator.log({f"monitor/{k}": v for k, v in values.items()}, step=step)
        self.since = time.perf_counter()

    def _rows(self) -> list[dict]:
        """One mean over processes and one transfer for all scalars of all waiting steps."""
        flat = [
            value.detach().float() for _, _, scalars in self.waiting for value in scalars.values()
        ]
        asked = torch.tensor(float(self.stop.received is not None), device=flat[0].device)
        means = self.accelerator.reduce(torch.stack([asked, *flat]), reduction="mean")
        values = iter(means.tolist())
        self.stopping = next(values) > 0
        rows = [
            {"kind": "train", "step": step, "lr": lr, **{name: next(values) for name in scalars}}
            for step, lr, scalars in self.waiting
        ]
        self.waiting.clear()
        return rows

    def _refuse_what_is_not_finite(self, rows: list[dict]) -> None:
        for row in rows:
            for name in ("loss", "grad_norm"):
                if not math.isfinite(row[name]):
                    raise Diverged(
                        f"{name} became {row[name]} at step {row['step']}, and the run stopped "
                        f"there. The last checkpoint in {self.run.checkpoints} is from before and "
                        "is intact. Start again with a lower learning rate (--set optim.lr=...), "
                        "a longer warm-up or --set precision=fp32."
                    )

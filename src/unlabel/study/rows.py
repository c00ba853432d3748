"""A finished run as one row of the study's table, from its folder and its last weights."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pandas as pd

from unlabel.methods.registry import get_method
from unlabel.scaling.table import MOVING, write_runs
from unlabel.study.figures import Judge, flops
from unlabel.study.folder import Study
from unlabel.study.plan import Plan, PlannedRun
from unlabel.training import checkpoint
from unlabel.training.exported import load_exported
from unlabel.training.run import Run

LAST = 0.05
"""Share of the steps, the last ones, that the training loss is the mean over."""


def row_of(run: Run, planned: PlannedRun, plan: Plan, judge: Judge) -> dict[str, Any]:
    """The run's row.

    Losses are those of its end, and the figures those of its last weights, also where an earlier
    checkpoint had a lower held-out loss: the study asks what the length brought. ``seconds`` is
    the training time of all its steps, those that it shares with its trunk included.
    """
    config = run.config
    steps = run.metrics("train")
    seconds = sum(config.batch_size / row["images_per_second"] for row in steps)
    samples, images = config.steps * config.batch_size, plan.images[planned.fraction]
    last = run.metrics("monitor")[-1]
    backbone = load_exported(checkpoint.path_of(run.checkpoints, config.steps))
    parameters = sum(p.numel() for p in backbone.parameters())
    return {
        "model": planned.model,
        "params_m": parameters / 1e6,
        "parameters": parameters,
        "flops": flops(backbone),
        "method": config.method,
        MOVING: get_method(config.method).target_moves,
        "dataset": plan.dataset,
        "fraction": planned.fraction,
        "unique_images": images,
        "samples_seen": samples,
        "steps": config.steps,
        "epochs": samples / images,
        "schedule": config.optim.schedule,
        "seed": config.seed,
        "train_loss": fmean(row["loss"] for row in steps[-max(1, round(LAST * len(steps))) :]),
        "val_loss": last["held_out_loss"],
        **judge.figures(backbone),
        "rankme": last["rankme"],
        "seconds": seconds,
        "images_per_second": samples / seconds,
    }


def write_table(study: Study) -> None:
    """Write the table of the runs that are finished, as CSV and as Parquet."""
    if rows := study.rows():
        table = pd.DataFrame(rows)
        for name in ("runs.csv", "runs.parquet"):
            write_runs(table, study.path / name)

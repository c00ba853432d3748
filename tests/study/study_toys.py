"""A study that takes a second or two: one tiny model, two amounts, three lengths."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unlabel.data.store import Store
from unlabel.machine import this_machine
from unlabel.study.folder import Study
from unlabel.study.grid import make_plan
from unlabel.study.plan import Cost, Plan, PlannedRun, StudyConfig
from unlabel.training import checkpoint

GRID: dict[str, Any] = {
    "models": ["vit_nano"],
    "fractions": [0.5, 1],
    "lengths": [4, 8, 16],
    "protocols": ["knn"],
}
SETTINGS: dict[str, Any] = {
    "model.image_size": 16,
    "model.patch_size": 4,
    "model.arguments": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    "model.drop_path": 0.1,
    "batch_size": 8,
    "evaluations": 2,
    "workers": 0,
    "optim.lr": 1e-2,
}


def asked(store: Path, settings: dict[str, Any] | None = None, **grid: Any) -> StudyConfig:
    """What the toy study was asked to be, with some of it changed."""
    chosen = {**SETTINGS, **(settings or {})}
    return StudyConfig.model_validate({"data": store, **GRID, **grid, "settings": chosen})


def plan_of(folder: Path, config: StudyConfig) -> Plan:
    return make_plan(config, Store.open(config.data), this_machine(), folder)[0]


def study_of(folder: Path, config: StudyConfig) -> Study:
    """The study, begun in ``folder``, with made-up costs."""
    plan, rows = make_plan(config, Store.open(config.data), this_machine(), folder)
    cost = Cost(step=1.0, look=0.0, checkpoint=1000, parameters=1)
    plan = plan.model_copy(update={"costs": {run.kind: cost for run in plan.runs}})
    return Study.create(folder, plan, rows)


@contextmanager
def quietly(planned: PlannedRun) -> Iterator[tuple[Any, Any]]:
    yield (lambda *_: None), (lambda _: None)


def weights(folder: Path) -> bytes:
    """The last checkpoint's tensors of a run, byte for byte."""
    last = checkpoint.latest(folder / "checkpoints")
    assert last is not None
    return (last / checkpoint.MODEL).read_bytes()


def figures(study: Study) -> list[dict[str, Any]]:
    """The table without what the clock decides."""
    timed = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in timed} for row in study.rows()]


def lines(folder: Path) -> list[dict[str, Any]]:
    """A run's figures, step by step, without its speed."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]

"""What ``metrics.jsonl`` holds, as curves short enough to draw.

A run that was killed may leave half a line, and one that diverged leaves NaN: neither stops the
page.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

POINTS = 2000
"""Most points of a drawn curve; neighbours are averaged to get there."""


@dataclass(frozen=True)
class Curve:
    """One scalar over the run: float64 ``steps`` and ``values``, both (n,), in order of steps."""

    steps: np.ndarray
    values: np.ndarray

    @property
    def finite(self) -> np.ndarray:
        """The values that are numbers."""
        return self.values[np.isfinite(self.values)]

    def thinned(self, points: int = POINTS) -> Curve:
        """At most ``points`` means over equal numbers of neighbours, leaving out NaN."""
        if len(self.steps) <= points:
            return self
        edges = np.linspace(0, len(self.steps), points + 1).astype(int)
        finite = np.isfinite(self.values)
        count = np.add.reduceat(finite, edges[:-1], dtype=np.float64)
        total = np.add.reduceat(np.where(finite, self.values, 0.0), edges[:-1])
        means = np.divide(total, count, out=np.full(points, np.nan), where=count > 0)
        steps = np.add.reduceat(self.steps, edges[:-1]) / np.diff(edges)
        return Curve(np.round(steps), means)


def read_curves(metrics: Path) -> dict[str, dict[str, Curve]]:
    """Every scalar of a run, by kind ("train", "monitor") and name.

    What is no number is left out; a missing file gives no curves.
    """
    points: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in _rows(metrics):
        step = _number(row.get("step"))
        if step is None or not np.isfinite(step):
            continue
        for name, value in row.items():
            figure = _number(value)
            if name != "step" and figure is not None:
                points[str(row.get("kind"))][name].append((step, figure))
    return {
        kind: {name: _curve(pairs) for name, pairs in named.items()}
        for kind, named in points.items()
    }


def _rows(metrics: Path) -> Iterator[dict[str, Any]]:
    if not metrics.is_file():
        return
    with metrics.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _curve(pairs: list[tuple[float, float]]) -> Curve:
    table = np.array(pairs, dtype=np.float64)
    table = table[np.argsort(table[:, 0], kind="stable")]
    return Curve(table[:, 0], table[:, 1])

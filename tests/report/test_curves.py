"""Curves from the metrics file: in order, and thinned where they are long."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from unlabel.report.curves import Curve, read_curves


def test_long_runs_are_thinned_to_means(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal(100_003)
    values[random.random(len(values)) < 0.1] = np.nan
    values[:200] = np.nan
    curve = Curve(np.arange(len(values), dtype=float), values).thinned(2000)
    assert len(curve.steps) == len(curve.values) == 2000
    edges = [int(i * len(values) / 2000) for i in range(2001)]
    expected = [
        np.nanmean(part) if np.isfinite(part := values[a:b]).any() else np.nan
        for a, b in itertools.pairwise(edges)
    ]
    np.testing.assert_allclose(curve.values, expected, rtol=1e-12)
    assert np.isnan(curve.values[0])
    assert np.all(np.diff(curve.steps) > 0)


def test_curves_come_in_order_of_steps(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(
        '{"kind":"train","step":2,"loss":3}\n{"kind":"train","step":0,"loss":1}\n'
    )
    curve = read_curves(tmp_path / "m.jsonl")["train"]["loss"]
    assert curve.steps.tolist() == [0, 2]
    assert curve.values.tolist() == [1, 3]

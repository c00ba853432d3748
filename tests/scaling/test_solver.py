"""The batched descent, beside SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares

from unlabel.scaling.solver import HUBER, descend, slopes

X = np.linspace(0.5, 3, 12)
LOW, HIGH = np.array([-2.0, -3.0, 0.05]), np.array([1.0, 2.0, 2.0])


def curve(p: np.ndarray) -> np.ndarray:
    return np.log(np.exp(p[0]) + np.exp(p[1] - p[2] * X))


TRUTH = np.array([-0.7, -0.4, 0.8])
NOISY = curve(TRUTH) + np.random.default_rng(0).normal(0, 3e-3, len(X))


def residuals(p: np.ndarray) -> np.ndarray:
    return curve(p) - NOISY


def scipys(rows: np.ndarray) -> float:
    """Cost of the best of several starts by SciPy's trust region."""
    starts = np.random.default_rng(1).uniform(LOW, HIGH, (8, 3))
    return min(
        least_squares(
            lambda p: residuals(p)[rows],
            start,
            bounds=(LOW, HIGH),
            loss="huber",
            f_scale=HUBER,
            x_scale=HIGH - LOW,
            max_nfev=2000,
        ).cost
        for start in starts
    )


def test_every_problem_of_a_batch_ends_where_scipy_does():
    counts = np.ones((3, len(X)))
    counts[1, :4] = 0  # rows that are left out
    counts[2, 5] = 2  # one that counts twice
    starts = np.random.default_rng(2).uniform(LOW, HIGH, (16, 3))
    _, costs = descend(residuals, LOW, HIGH, np.tile(starts, (3, 1)), np.repeat(counts, 16, 0), 300)
    best = costs.reshape(3, 16).min(1)
    wanted = [np.ones(12, bool), counts[1] > 0, np.r_[np.arange(12), 5]]
    assert best == pytest.approx([scipys(rows) for rows in wanted], rel=1e-4)


def test_nothing_leaves_its_range():
    low, high = LOW, np.array([1.0, 2.0, 0.5])  # the truth has 0.8
    starts = np.random.default_rng(3).uniform(low, high, (8, 3))
    found, _ = descend(residuals, low, high, starts, np.ones((8, len(X))), 300)
    assert ((found >= low) & (found <= high)).all()


def test_slopes_are_those_of_the_closed_form():
    p = np.array([TRUTH])
    loss = np.exp(curve(TRUTH))
    falling = np.exp(TRUTH[1] - TRUTH[2] * X)
    expected = np.stack([np.exp(TRUTH[0]) / loss, falling / loss, -X * falling / loss], -1)
    found = slopes(residuals, p, HIGH - LOW)
    assert found[0] == pytest.approx(expected * (HIGH - LOW), rel=1e-6)

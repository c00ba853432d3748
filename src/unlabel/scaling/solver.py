"""Many small Huber regressions at once: every start, hold-out and resample is a row of one batch.

Levenberg-Marquardt within bounds. The Huber loss is met by weights that follow the residuals
(Holland and Welsch 1977); its sum, not its mean, is what is made small, so that the size of a table
does not decide when the descent stops.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray
Residuals = Callable[[Array], Array]
"""From parameters, shaped (parameters, problems, 1), to residuals, shaped (problems, rows)."""

HUBER = 1e-3
"""Residual of the log loss from which on it counts linearly (Hoffmann et al. 2022, appendix D)."""
STEP = 1e-5
"""Half the distance that slopes are taken over, as a share of a parameter's range."""
DAMPING, EASED, TIGHTENED, STUCK = 1e-2, 0.3, 4.0, 1e8
ENOUGH = 1e-7
"""Share of its cost by which the last step of a descent improves at most."""


def descend(
    residuals: Residuals, low: Array, high: Array, starts: Array, counts: Array, rounds: int
) -> tuple[Array, Array]:
    """Descend from every start.

    Args:
        residuals: of all rows, by parameters.
        low: least value of each parameter.
        high: largest value of each parameter.
        starts: parameters to start from, shaped (problems, parameters).
        counts: how often each row counts in each problem, shaped (problems, rows); 0 leaves it out.
        rounds: most steps that are tried.

    Returns:
        Parameters, shaped as ``starts``, and the sums of Huber losses.
    """
    reach = high - low
    best = np.clip(starts, low, high)
    errors = residuals(best.T[:, :, None])
    costs = _huber(errors, counts)
    damping = np.full(len(best), DAMPING)
    busy = np.arange(len(best))
    for _ in range(rounds):
        p, r, c, d = best[busy], errors[busy], counts[busy], damping[busy]
        tried = np.clip(p + reach * _step(residuals, p, r, c, low, high, d), low, high)
        found = residuals(tried.T[:, :, None])
        cost = _huber(found, c)
        better = cost < costs[busy]
        done = np.where(better, costs[busy] - cost < ENOUGH * cost, d > STUCK)
        won = busy[better]
        best[won], errors[won], costs[won] = tried[better], found[better], cost[better]
        damping[busy] = np.maximum(d * np.where(better, EASED, TIGHTENED), 1e-9)
        busy = busy[~done]
        if not len(busy):
            break
    return best, costs


def slopes(residuals: Residuals, p: Array, reach: Array) -> Array:
    """Central differences of the residuals, for every parameter over its range.

    Args:
        residuals: as above.
        p: parameters, shaped (problems, parameters).
        reach: the range of each parameter.

    Returns:
        Shaped (problems, rows, parameters).
    """
    problems, width = p.shape
    nudges = np.diag(STEP * reach)
    sets = p.T[:, None] + np.hstack([nudges, -nudges])[:, :, None]
    found = residuals(sets.reshape(width, -1, 1)).reshape(2, width, problems, -1)
    return np.moveaxis(found[0] - found[1], 0, -1) / (2 * STEP)


def _step(
    residuals: Residuals, p: Array, r: Array, counts: Array, low: Array, high: Array, damping: Array
) -> Array:
    """Where each problem should go, as shares of the parameters' ranges."""
    across = slopes(residuals, p, high - low)
    weighted = across * (counts * np.minimum(1, HUBER / np.maximum(np.abs(r), HUBER)))[..., None]
    uphill = np.einsum("pmk,pm->pk", weighted, r)
    bend = np.swapaxes(weighted, 1, 2) @ across
    walled = ((p <= low) & (uphill > 0)) | ((p >= high) & (uphill < 0))
    uphill = np.where(walled, 0.0, uphill)
    bend = np.where(walled[:, :, None] | walled[:, None, :], 0.0, bend)
    own = np.einsum("pkk->pk", bend)
    own += damping[:, None] * np.maximum(own, 1e-8 * own.max(1, keepdims=True)) + walled + 1e-15
    return -np.linalg.solve(bend, uphill[..., None])[..., 0]


def _huber(errors: Array, counts: Array) -> Array:
    size = np.abs(errors)
    return (counts * np.where(size < HUBER, size**2 / 2, HUBER * (size - HUBER / 2))).sum(1)

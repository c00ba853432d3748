"""One form fitted to a table: to all of its rows, without some of them, or to rows drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.stats import qmc

from unlabel.scaling.forms import BELIEFS, Array, Form, Points
from unlabel.scaling.solver import HUBER, descend
from unlabel.scaling.table import LOSS, NUMBERS

STARTS, KEPT = 64, 4
"""Sobol points of the ranges to start from, and how many of the best are followed to the end."""
FIRST, LAST = 20, 200
"""Most steps from every start, and from those that are kept."""
OFFSET = 3.0
"""Most that the log loss of a further source of images may lie off: a factor of 20."""


@dataclass(frozen=True)
class Scale:
    """The table's middle, and the sources of images whose losses may lie off the first's."""

    middle: Array
    loss: float
    sources: tuple[str, ...]

    @classmethod
    def of(cls, runs: pd.DataFrame) -> Scale:
        """Geometric means; the source with the most rows comes first."""
        middle = np.log(runs[list(NUMBERS)].to_numpy(float)).mean(0)
        sources = tuple(runs["source"].value_counts(sort=True).index)  # as `main_source` counts
        return cls(middle, float(np.median(runs[LOSS])), sources)

    def points(self, runs: pd.DataFrame) -> Points:
        """Where the rows stand."""
        n, u, s = (np.log(runs[list(NUMBERS)].to_numpy(float)) - self.middle).T
        return Points(n, u, s, (runs["samples_seen"] / runs["unique_images"]).to_numpy(float))

    def offsets(self, runs: pd.DataFrame) -> Array:
        """One column for each further source: 1 in its rows."""
        further = np.array(self.sources[1:], dtype=object)
        return (runs["source"].to_numpy(object)[:, None] == further).astype(float)


@dataclass
class Fitted:
    """One form with its parameters, and after them the sources' offsets.

    ``left_out`` are, by what was held out, the errors of the log loss on those rows; ``refits``
    the parameters that rows drawn again lead to, one set a row.
    """

    form: Form
    scale: Scale
    parameters: Array
    cost: float
    left_out: dict[str, Array] = field(default_factory=dict)
    refits: Array | None = None

    def log_loss(self, runs: pd.DataFrame, parameters: Array | None = None) -> Array:
        """Predicted logarithm of the loss of each row; a row of them for each set of parameters."""
        p = self.parameters if parameters is None else parameters
        own = len(self.form.ranges)
        sets = np.atleast_2d(p)
        loss = np.log(self.form.loss(sets[:, :own].T[:, :, None], self.scale.points(runs)))
        loss = loss + sets[:, own:] @ self.scale.offsets(runs).T + np.log(self.scale.loss)
        return loss if p.ndim == 2 else loss[0]

    @property
    def names(self) -> list[str]:
        """Of the parameters, in their order."""
        return [*self.form.ranges, *(f"offset of {name}" for name in self.scale.sources[1:])]

    def intervals(self) -> Array:
        """The 95 % interval of each parameter over the refits: lower ends, then upper."""
        if self.refits is None:
            return np.full((2, len(self.parameters)), np.nan)
        return np.quantile(self.refits, (0.025, 0.975), axis=0)


class Regression:
    """One form and the rows it is fitted to."""

    def __init__(self, form: Form, scale: Scale, runs: pd.DataFrame) -> None:
        points, offsets = scale.points(runs), scale.offsets(runs).T
        target = np.log(runs[LOSS].to_numpy(float) / scale.loss)
        own, extra = len(form.ranges), len(offsets)
        self.form, self.scale, self.rows = form, scale, len(runs)
        self.low = np.concatenate([form.low, np.full(extra, -OFFSET)])
        self.high = np.concatenate([form.high, np.full(extra, OFFSET)])

        believed = [(i, *BELIEFS[name]) for i, name in enumerate(form.ranges) if name in BELIEFS]

        def residuals(p: Array) -> Array:
            """Of the runs; and of what is believed, where 1 standard deviation counts as HUBER."""
            errors = np.log(form.loss(p[:own], points)) + p[own:, :, 0].T @ offsets - target
            beliefs = [HUBER * (p[i] - middle) / spread for i, middle, spread in believed]
            return np.hstack([errors, *beliefs])

        self.residuals, self.beliefs = residuals, len(believed)

    def from_afar(self, counts: Array) -> tuple[Array, Array]:
        """Best parameters and their costs, for each row of ``counts``, from many starts."""
        unit = qmc.Sobol(len(self.form.ranges), seed=0).random(STARTS)
        starts = np.zeros((STARTS, len(self.low)))
        starts[:, : unit.shape[1]] = qmc.scale(unit, self.form.low, self.form.high)
        found, costs = self._descend(np.tile(starts, (len(counts), 1)), counts, STARTS, FIRST)
        order = np.argsort(costs.reshape(-1, STARTS))[:, :KEPT]
        kept = found.reshape(len(counts), STARTS, -1)[np.arange(len(counts))[:, None], order]
        found, costs = self._descend(kept.reshape(-1, len(self.low)), counts, KEPT, LAST)
        best = costs.reshape(-1, KEPT).argmin(1) + np.arange(len(counts)) * KEPT
        return found[best], costs[best]

    def from_near(self, start: Array, counts: Array) -> Array:
        """Best parameters for each row of ``counts``, all from the same start."""
        return self._descend(np.tile(start, (len(counts), 1)), counts, 1, LAST)[0]

    def _descend(self, starts: Array, counts: Array, each: int, rounds: int) -> tuple[Array, Array]:
        counts = np.pad(counts, ((0, 0), (0, self.beliefs)), constant_values=1)
        repeated = np.repeat(counts, each, 0)
        return descend(self.residuals, self.low, self.high, starts, repeated, rounds)


def fit_form(form: Form, scale: Scale, runs: pd.DataFrame) -> Fitted:
    """The parameters of least Huber loss on log residuals, from many starts."""
    regression = Regression(form, scale, runs)
    (parameters,), (cost,) = regression.from_afar(np.ones((1, len(runs))))
    return Fitted(form, scale, parameters, float(cost))


def fit_without(
    form: Form, scale: Scale, runs: pd.DataFrame, far: dict[str, Array], near: Sequence[Array]
) -> Fitted:
    """Fit a form to all rows, and see how it predicts rows that it was fitted without.

    Args:
        form: what to fit.
        scale: the table's middle and sources.
        runs: rows with losses.
        far: rows to hold out, as masks by name, with many starts for each.
        near: parts to hold out in turn, from the parameters of all rows; each row is in one. Their
            errors go by the name "inside".
    """
    regression = Regression(form, scale, runs)
    counts = np.array([np.ones(len(runs)), *(~rows for rows in far.values())], float)
    (parameters, *without), costs = regression.from_afar(counts)
    fitted = Fitted(form, scale, parameters, float(costs[0]))
    truth = np.log(runs[LOSS].to_numpy(float))
    for (name, rows), p in zip(far.items(), without, strict=True):
        fitted.left_out[name] = (fitted.log_loss(runs, p) - truth)[rows]
    inside = np.zeros(len(runs))
    refitted = regression.from_near(parameters, np.array([~rows for rows in near], float))
    for rows, p in zip(near, refitted, strict=True):
        inside[rows] = (fitted.log_loss(runs, p) - truth)[rows]
    fitted.left_out["inside"] = inside
    return fitted

"""The loss as a function of model, data and length, fitted to a table of runs.

Several forms are fitted (`forms`), and each is judged by runs that it has not seen: the largest
model, the longest runs, the smallest data, and a fifth of the rows in turn. A row beyond the
table's edge is predicted by the forms that did best beyond that edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

import numpy as np
import pandas as pd
from scipy.optimize import OptimizeResult, least_squares
from scipy.stats import qmc

from unlabel.errors import DataError
from unlabel.study.forms import FORMS, Array, Form, Points
from unlabel.study.table import LOSS, NUMBERS

HUBER = 1e-3
"""Residual of the log loss from which on it counts linearly (Chinchilla)."""
STARTS, KEPT, REFITS, FOLDS = 32, 3, 60, 5
BETTER = 0.8
"""Share of the best baseline's error that the forms' may be at most, for anything to be said."""
OVERFIT = 0.005
"""Log loss that more images would take away from which on a run counts as overfit."""
ENOUGH = 2
"""Held-out rows of a kind that its error is taken from."""
COUNTS = 0.1
"""Least weight, at any edge, of a form that is fitted again to resampled rows."""
STEP = 1e-6
"""Of the differences that slopes are taken from."""
OFFSET = 0.05
"""Most that the log loss of a further source of images may lie off."""
FEWEST = 8
"""Rows that a fit needs."""
AXES = {"model": ("params_m", max), "length": ("samples_seen", max), "data": ("unique_images", min)}
"""What is held out at each edge: the largest model, the longest runs, the least data."""
INSIDE = "inside"


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
        sources = tuple(runs["source"].value_counts(sort=True).index)
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
    """One form with its parameters (and after them the sources' offsets), and its errors.

    ``left_out`` are, by edge, the errors of the log loss on the rows that were held out there.
    """

    form: Form
    scale: Scale
    parameters: Array
    cost: float
    left_out: dict[str, Array] = field(default_factory=dict)
    refits: list[Array] = field(default_factory=list)

    @property
    def errors(self) -> dict[str, float]:
        """Root-mean-square errors of the log loss on rows held out, by edge."""
        return {axis: rms(errors) for axis, errors in self.left_out.items()}

    def log_loss(self, runs: pd.DataFrame, parameters: Array | None = None) -> Array:
        """Predicted logarithm of the loss of each row."""
        p = self.parameters if parameters is None else parameters
        own = len(self.form.ranges)
        loss = np.log(self.form.loss(p[:own], self.scale.points(runs)))
        return loss + self.scale.offsets(runs) @ p[own:] + np.log(self.scale.loss)

    def interval(self, index: int) -> tuple[float, float]:
        """95 % interval of a parameter, over bootstrap refits."""
        values = np.array([p[index] for p in self.refits])
        low, high = np.quantile(values, (0.025, 0.975))
        return float(low), float(high)


def fit_form(
    form: Form, scale: Scale, runs: pd.DataFrame, starts: Sequence[Array] | None = None
) -> Fitted:
    """The parameters of least Huber loss on log residuals, from many starts.

    Args:
        form: what to fit.
        scale: the table's middle and sources.
        runs: rows with losses.
        starts: parameters to start from; Sobol points of the form's ranges when not given.
    """
    points, offsets = scale.points(runs), scale.offsets(runs)
    target = np.log(runs[LOSS].to_numpy(float) / scale.loss)
    own, extra = len(form.ranges), offsets.shape[1]
    low = np.concatenate([form.low, np.full(extra, -OFFSET)])
    high = np.concatenate([form.high, np.full(extra, OFFSET)])

    def residuals(p: Array) -> Array:
        return np.log(form.loss(p[:own], points)) + offsets @ p[own:] - target

    def slopes(p: Array) -> Array:
        """Central differences, all parameters in one call."""
        nudges = np.eye(own) * STEP
        sets = (p[:own, None] + np.hstack([nudges, -nudges]))[..., None]
        up, down = np.split(np.log(form.loss(sets, points)), 2)
        return np.hstack([(up - down).T / (2 * STEP), offsets])

    def descend(start: Array, evaluations: int) -> OptimizeResult:
        return least_squares(
            residuals,
            np.clip(start, low + 1e-9, high - 1e-9),
            jac=slopes,
            bounds=(low, high),
            x_scale=high - low,
            loss="huber",
            f_scale=HUBER,
            max_nfev=evaluations,
        )

    if starts is None:
        unit = qmc.Sobol(own, seed=0).random(STARTS)
        begun = [np.append(row, np.zeros(extra)) for row in qmc.scale(unit, form.low, form.high)]
        tried = sorted((descend(start, 40) for start in begun), key=lambda found: found.cost)
        starts = [found.x for found in tried[:KEPT]]
    best = min((descend(start, 300) for start in starts), key=lambda found: found.cost)
    return Fitted(form, scale, best.x, float(best.cost))


class Fit:
    """All forms fitted to one method's runs, with what each is worth where.

    Attributes:
        runs: the table.
        forms: those with fewer parameters than there are rows, each fitted.
        held_out: for each edge, the rows that were held out.
        baselines: for each edge, the errors of the table's median and of the nearest known row.
    """

    def __init__(self, runs: pd.DataFrame, seed: int = 0) -> None:
        """Fit every form to ``runs`` and to what is left when each edge is held out.

        Raises:
            DataError: there are too few rows.
        """
        if len(runs) < FEWEST:
            raise DataError(f"A fit needs at least {FEWEST} runs; there are {len(runs)}.")
        self.runs = runs.reset_index(drop=True)
        self.seed = seed
        self.scale = Scale.of(self.runs)
        spare = len(self.runs) - len(self.scale.sources)
        forms = [form for form in FORMS if len(form.ranges) < spare]
        self.forms = [fit_form(form, self.scale, self.runs) for form in forms]
        self.held_out = {axis: rows for axis in AXES if (rows := self._edge(axis)) is not None}
        self.baselines = {axis: self._baselines(rows) for axis, rows in self.held_out.items()}
        folds = np.random.default_rng(seed).permutation(len(self.runs)) % FOLDS
        for fitted in self.forms:
            for axis, rows in self.held_out.items():
                fitted.left_out[axis] = self._left_out(fitted, rows)
            inside = np.zeros(len(self.runs))
            for k in range(FOLDS):
                inside[folds == k] = self._left_out(fitted, folds == k, near=True)
            fitted.left_out[INSIDE] = inside

    def excess(self, runs: pd.DataFrame) -> Array:
        """How much of the log loss of each row more images alone would take away: overfitting.

        By the form that is best inside the table, beside the table's largest set of images.
        """
        best = min(self.forms, key=lambda fitted: fitted.errors[INSIDE])
        ample = runs.assign(unique_images=self.runs["unique_images"].max())
        return best.log_loss(runs) - best.log_loss(ample)

    def weights(self, axis: str, overfit: bool) -> Array:
        """How much each form counts at an edge: one over the fourth power of its error there."""
        weights = np.array([rms(self._errors(f, axis, overfit)) ** -4 for f in self.forms])
        return weights / weights.sum()

    def error(self, axis: str, overfit: bool) -> float:
        """Root-mean-square error of the weighted forms at an edge, or inside the table.

        The weights come from the same rows, so it flatters a little.
        """
        errors = np.array([self._errors(fitted, axis, overfit) for fitted in self.forms])
        return rms(self.weights(axis, overfit) @ errors)

    @cached_property
    def errors(self) -> dict[str, float]:
        """The weighted forms' errors over all rows of each edge, and inside the table."""
        found = {}
        for axis in (*self.held_out, INSIDE):
            crowded = self._overfit[self.held_out.get(axis, slice(None))]
            squares = [self.error(axis, bool(overfit)) ** 2 for overfit in crowded]
            found[axis] = float(np.sqrt(np.mean(squares)))
        return found

    @cached_property
    def _overfit(self) -> Array:
        return self.excess(self.runs) > OVERFIT

    def _errors(self, fitted: Fitted, axis: str, overfit: bool) -> Array:
        """Of the held-out rows that overfit as much; of all of them where hardly any do."""
        errors = fitted.left_out[axis]
        alike = self._overfit[self.held_out.get(axis, slice(None))] == overfit
        return errors[alike] if alike.sum() >= ENOUGH else errors

    def why_not(self, axis: str) -> str | None:
        """Why nothing is said beyond an edge: the forms are no better there than a baseline."""
        if axis not in self.held_out:
            return None
        best = min(self.baselines[axis].values())
        if self.errors[axis] < BETTER * best:
            return None
        name = min(self.baselines[axis], key=self.baselines[axis].__getitem__)
        return (
            f"beyond the edge of {axis} the forms are off by {self.errors[axis]:.1%}, hardly "
            f"better than the {name} ({best:.1%})"
        )

    def refit(self) -> None:
        """Fit every form that counts again to resampled rows, for intervals."""
        draws = np.random.default_rng(self.seed)
        rows = [draws.integers(0, len(self.runs), len(self.runs)) for _ in range(REFITS)]
        kinds = product(self.errors, (False, True))
        counts = np.max([self.weights(axis, overfit) for axis, overfit in kinds], axis=0)
        for fitted, counted in zip(self.forms, counts, strict=True):
            if counted >= COUNTS and not fitted.refits:
                fitted.refits = [
                    fit_form(
                        fitted.form, self.scale, self.runs.iloc[chosen], [fitted.parameters]
                    ).parameters
                    for chosen in rows
                ]

    def _edge(self, axis: str) -> Array | None:
        """The rows at an edge, where enough are left to fit and to extend."""
        column, end = AXES[axis]
        values = self.runs[column]
        rows = (values == end(values)).to_numpy()
        enough = (~rows).sum() >= FEWEST - 2 and values[~rows].nunique() >= 2
        return rows if enough else None

    def _left_out(self, fitted: Fitted, rows: Array, near: bool = False) -> Array:
        """Errors of the log loss on ``rows`` of the form fitted without them."""
        starts = [fitted.parameters] if near else None
        without = fit_form(fitted.form, self.scale, self.runs[~rows], starts)
        return without.log_loss(self.runs[rows]) - np.log(self.runs[rows][LOSS].to_numpy())

    def _baselines(self, rows: Array) -> dict[str, float]:
        known, wanted = self.runs[~rows], self.runs[rows]
        truth = np.log(wanted[LOSS].to_numpy())
        logs = np.log(known[LOSS].to_numpy())
        places = [np.log(part[list(NUMBERS)].to_numpy(float)) for part in (wanted, known)]
        nearest = np.abs(places[0][:, None] - places[1]).sum(2).argmin(1)
        return {
            "median": rms(np.median(logs) - truth),
            "nearest known run": rms(logs[nearest] - truth),
        }


def rms(errors: Array) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(errors))))

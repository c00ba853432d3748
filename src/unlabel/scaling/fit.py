"""The loss as a function of model, data and length, fitted to a table of runs.

Several forms are fitted (`forms`), and each is judged by runs that it has not seen: the largest
model, the longest runs, the least data, their opposites, and a fifth of the rows in turn. A row
beyond the table's edge is predicted by the forms that did best beyond that edge.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from unlabel.errors import DataError
from unlabel.scaling.fitted import Fitted, Regression, Scale, fit_without
from unlabel.scaling.forms import FORMS, Array, Form
from unlabel.scaling.table import LOSS, NUMBERS, levels

FOLDS, REFITS = 5, 60
BETTER = 0.8
"""Share of a baseline's error that the forms' may be at most, for anything to be said."""
AS_GOOD = 1.2
"""The same of the nearest known run's inside the table and at its inward ends, where little changes
from one run to the next, so that the nearest is hard to beat. Below ``OVERFIT`` any error does."""
OVERFIT = 0.005
"""Log loss that more images would take away from which on a run counts as overfit."""
ENOUGH = 2
"""Held-out rows of a kind that its error is taken from."""
WINDOW = 2.0
"""Times the best form's held-out error from which on a form does not count (Occam's window)."""
COUNTS = 0.02
"""Least weight, at any edge, of a form that is fitted again to rows drawn again."""
FEWEST = 8
"""Rows that a fit needs."""
COLUMNS = {"model": "params_m", "length": "samples_seen", "data": "unique_images"}
OUTWARD = {"model": "high", "length": "high", "data": "low"}
"""The end of each axis that is asked about most: larger models, longer runs, less data."""
INSIDE = "inside"
PLACES = {
    "model high": "beyond the largest model",
    "model low": "below the smallest model",
    "length high": "beyond the longest runs",
    "length low": "below the shortest runs",
    "data high": "beyond the most images",
    "data low": "below the fewest images",
    INSIDE: "inside the table",
}
"""What was held out, in words."""


class Fit:
    """All forms fitted to one method's runs, with what each is worth where.

    Attributes:
        runs: the table.
        forms: those with fewer parameters than there are rows, each fitted.
        held_out: the rows that were held out, by axis and end ("model high", "data low").
        levels: the columns of ``runs`` that the axes are, where numbers that are nearly the same
            are the same.
        baselines: for each part that was held out, and inside, the errors of the median and of the
            nearest known row, both of the same source of images where it has others.
    """

    def __init__(self, runs: pd.DataFrame, seed: int = 0, forms: tuple[Form, ...] = FORMS) -> None:
        """Fit every form to ``runs`` and to what is left when each edge is held out.

        Raises:
            DataError: there are too few rows, or too many sources for them.
        """
        if len(runs) < FEWEST:
            raise DataError(f"A fit needs at least {FEWEST} runs; there are {len(runs)}.")
        self.runs = runs.reset_index(drop=True)
        self.seed = seed
        self.scale = Scale.of(self.runs)
        self.levels = pd.DataFrame({c: levels(self.runs[c]) for c in COLUMNS.values()})
        ends = {f"{axis} {end}": (axis, end) for axis in COLUMNS for end in ("low", "high")}
        edges = {name: self._edge(*ends[name]) for name in ends}
        self.held_out = {name: rows for name, rows in edges.items() if rows is not None}
        spare = len(self.runs) - len(self.scale.sources)
        folds = self._folds()
        self.forms = [
            fit_without(form, self.scale, self.runs, self.held_out, folds)
            for form in forms
            if len(form.ranges) < spare
        ]
        if not self.forms:
            sets = len(self.scale.sources)
            needed = min(len(form.ranges) for form in forms) + sets + 1
            raise DataError(
                f"A fit of runs on {sets} sets of images needs at least {needed} runs, as each set "
                f"has a level of its own; there are {len(self.runs)}. Leave some sets out "
                "(--exclude-dataset)."
            )
        parts = {name: [rows] for name, rows in self.held_out.items()} | {INSIDE: folds}
        self.baselines = {name: self._baselines(held_out) for name, held_out in parts.items()}

    def excess(self, runs: pd.DataFrame) -> Array:
        """How much of the log loss of each row more images alone would take away: overfitting.

        By the form that is best inside the table, beside the largest set of images of the source
        with most rows.
        """
        best = min(self.forms, key=lambda fitted: rms(fitted.left_out[INSIDE]))
        own = self.runs[self.runs["source"] == self.scale.sources[0]]
        ample = runs.assign(unique_images=own["unique_images"].max())
        return best.log_loss(runs) - best.log_loss(ample)

    def weights(self, axis: str, overfit: bool) -> Array:
        """How much each form counts beyond an axis' ends, or inside.

        One over its squared error at both ends: one end alone has few rows.
        """
        names = [f"{axis} {end}" for end in ("low", "high")]
        known = [name for name in names if name in self.held_out]
        if not known:  # too few kinds: what holds at the other edges must do
            known = [INSIDE] if axis == INSIDE else [*self.held_out, INSIDE]
        errors = np.array(
            [rms([rms(self._errors(f, name, overfit)) for name in known]) for f in self.forms]
        )
        errors = np.maximum(errors, 1e-6)
        weights = np.where(errors < WINDOW * errors.min(), errors**-2, 0)
        return weights / weights.sum()

    def checked(self, axis: str, end: str) -> bool:
        """Whether runs could be held out at this edge."""
        return f"{axis} {end}" in self.held_out

    def error(self, axis: str, overfit: bool, end: str | None = None) -> float:
        """Root-mean-square error of the weighted forms at an edge, or inside the table.

        The weights come from the same rows, so it flatters a little.
        """
        name = f"{axis} {end or OUTWARD.get(axis)}"
        name = name if name in self.held_out else INSIDE
        errors = np.array([self._errors(fitted, name, overfit) for fitted in self.forms])
        return rms(self.weights(axis, overfit) @ errors)

    @cached_property
    def errors(self) -> dict[str, float]:
        """The weighted forms' errors over all rows of each part held out, and inside the table."""
        found = {}
        for name in (*self.held_out, INSIDE):
            axis, _, end = name.partition(" ")
            by_kind = [self.error(axis, overfit, end or None) for overfit in (False, True)]
            found[name] = rms(np.array(by_kind)[self._crowded(name).astype(int)])
        return found

    def errors_of(self, fitted: Fitted) -> dict[str, float]:
        """One form's errors, as ``errors``."""
        return {name: rms(fitted.left_out[name]) for name in (*self.held_out, INSIDE)}

    def unseen(self, axis: str) -> pd.DataFrame:
        """The rows at an axis' outward edge as they were predicted without them.

        Returns:
            Rows of the table with a column ``val_loss_unseen``; none where the edge was not held
            out.
        """
        name = f"{axis} {OUTWARD[axis]}"
        rows = self.runs[self.held_out.get(name, np.zeros(len(self.runs), bool))]
        if not len(rows):
            return rows.assign(val_loss_unseen=np.nan)
        errors = np.array([fitted.left_out[name] for fitted in self.forms])
        weights = np.array([self.weights(axis, bool(crowded)) for crowded in self._crowded(name)])
        off = np.einsum("rf,fr->r", weights, errors)
        return rows.assign(val_loss_unseen=rows[LOSS] * np.exp(off))

    @cached_property
    def refusals(self) -> dict[str, str]:
        """Why nothing is said of a part: the forms are no better on it than a baseline."""
        outward = {f"{axis} {end}" for axis, end in OUTWARD.items()}
        found = {}
        for name, baselines in self.baselines.items():
            error, nearest = self.errors[name], baselines["nearest known run"]
            head = f"{PLACES[name]} the forms are off by {error:.1%}, not"
            best = min(baselines, key=baselines.__getitem__) if name in outward else "median"
            if not error < BETTER * baselines[best]:
                found[name] = f"{head} a fifth better than the {best} ({baselines[best]:.1%})"
            elif name not in outward and error > max(AS_GOOD * nearest, OVERFIT):
                found[name] = f"{head} nearly as good as the nearest known run ({nearest:.1%})"
        return found

    def refit(self) -> None:
        """Fit every form that counts again to rows drawn again, for intervals."""
        draws = np.random.default_rng(self.seed)
        drawn = draws.integers(0, len(self.runs), (REFITS, len(self.runs)))
        counts = np.array([np.bincount(rows, minlength=len(self.runs)) for rows in drawn], float)
        kinds = [(axis, overfit) for axis in (*COLUMNS, INSIDE) for overfit in (False, True)]
        weights = np.max([self.weights(*kind) for kind in kinds], axis=0)
        for fitted, weight in zip(self.forms, weights, strict=True):
            if weight >= COUNTS and fitted.refits is None:
                regression = Regression(fitted.form, self.scale, self.runs)
                fitted.refits = regression.from_near(fitted.parameters, counts)

    def as_dict(self) -> dict[str, Any]:
        """Everything that was found, in plain types."""
        self.refit()
        columns = dict(zip(NUMBERS, np.exp(self.scale.middle).tolist(), strict=True))
        return {
            "runs": len(self.runs),
            "middle": {**columns, LOSS: self.scale.loss},
            "errors": self.errors,
            "baselines": self.baselines,
            "refused": self.refusals,
            "forms": [
                {
                    "name": fitted.form.name,
                    "source": fitted.form.source,
                    "parameters": dict(zip(fitted.names, fitted.parameters.tolist(), strict=True)),
                    "intervals": None
                    if fitted.refits is None
                    else dict(zip(fitted.names, fitted.intervals().T.tolist(), strict=True)),
                    "errors": self.errors_of(fitted),
                }
                for fitted in self.forms
            ],
        }

    @cached_property
    def _overfit(self) -> Array:
        return self.excess(self.runs) > OVERFIT

    def _crowded(self, name: str) -> Array:
        """Which of the rows that were held out overfit."""
        return self._overfit[self.held_out.get(name, slice(None))]

    def _errors(self, fitted: Fitted, name: str, overfit: bool) -> Array:
        """Of the held-out rows that overfit as much; of all of them where hardly any do."""
        errors = fitted.left_out[name]
        alike = self._crowded(name) == overfit
        return errors[alike] if alike.sum() >= ENOUGH else errors

    def _edge(self, axis: str, end: str) -> Array | None:
        """The rows at an edge, where enough are left to fit and to extend."""
        values = self.levels[COLUMNS[axis]]
        known = self.runs["source"] == self.scale.sources[0] if axis == "data" else values > 0
        last = values[known].max() if end == "high" else values[known].min()
        rows = (known & (values == last)).to_numpy()
        enough = (~rows).sum() >= FEWEST - 2 and values[known & ~rows].nunique() >= 2
        return rows if enough else None

    def _folds(self) -> list[Array]:
        """Parts of the rows; repetitions of one run are in the same."""
        levels = [self.levels[name] for name in NUMBERS]
        run = self.runs.groupby([*levels, "source"]).ngroup().to_numpy()
        part = np.random.default_rng(self.seed).permutation(run.max() + 1)[run] % FOLDS
        return [part == k for k in range(FOLDS) if (part == k).any()]

    def _baselines(self, parts: list[Array]) -> dict[str, float]:
        """Errors on parts that are held out in turn.

        Each source has a level of its own, so a row is compared with those of its source.
        """
        places = np.log(self.levels.to_numpy(float))
        logs = np.log(self.runs[LOSS].to_numpy(float))
        source = self.runs["source"].to_numpy(object)
        errors: dict[str, list[float]] = {"median": [], "nearest known run": []}
        for rows in parts:
            for row in np.flatnonzero(rows):
                own = ~rows & (source == source[row])
                known = own if own.any() else ~rows
                nearest = np.abs(places[known] - places[row]).sum(1).argmin()
                errors["median"].append(np.median(logs[known]) - logs[row])
                errors["nearest known run"].append(logs[known][nearest] - logs[row])
        return {name: rms(found) for name, found in errors.items()}


def rms(errors: Any) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(errors))))

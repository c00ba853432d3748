"""Losses of runs that nobody has trained, with intervals, or why the table cannot tell."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from unlabel.scaling.fit import COLUMNS, INSIDE, OUTWARD, OVERFIT, Fit
from unlabel.scaling.fitted import Fitted
from unlabel.scaling.forms import Array
from unlabel.scaling.table import SAME

FARTHEST = {"model": 8.0, "data": 16.0, "length": 4.0}
"""Most times beyond the table that anything is said: images change least there, lengths most."""
Z95 = 1.96
PREDICTED = ("val_loss_predicted", "val_loss_low", "val_loss_high", "val_loss_note")


class Beyond(NamedTuple):
    """An end of an axis that a row lies beyond, as `beyond` says.

    ``steps`` are in those from the axis' last value but one to its last, as logarithms.
    """

    axis: str
    end: str
    steps: float
    times: float


def predict(fit: Fit, wanted: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``wanted`` with what the fit says of their validation loss.

    Beyond an edge of the table the forms count by their errors beyond that edge. The 95 % interval
    has three parts: what rows drawn again change, how far the forms disagree, and the error on the
    rows held out at that edge, which grows with the distance.

    Args:
        fit: of the same method.
        wanted: rows as `read_runs` gives them; losses are not needed.

    Returns:
        ``wanted`` with ``val_loss_predicted``, ``val_loss_low`` and ``val_loss_high``, and
        ``val_loss_note``: why nothing is said, or what could not be checked.
    """
    fit.refit()
    logs = np.array([fitted.log_loss(wanted) for fitted in fit.forms])
    spreads = np.array([_spread(fitted, wanted) for fitted in fit.forms])
    crowded = fit.excess(wanted) > OVERFIT
    rows = []
    for place, (_, row) in enumerate(wanted.iterrows()):
        edges = beyond(fit, row)
        if reason := _why_not(fit, row, edges):
            rows.append((np.nan, np.nan, np.nan, reason))
            continue
        middle, width = weighted(
            fit, logs[:, place], spreads[:, place], edges, bool(crowded[place])
        )
        unchecked = [edge.axis for edge in edges if not fit.checked(edge.axis, edge.end)]
        note = "; ".join(map(_unchecked, unchecked))
        rows.append((*np.exp([middle, middle - width, middle + width]), note))
    found = pd.DataFrame(rows, columns=list(PREDICTED), index=wanted.index)
    return pd.concat([wanted.drop(columns=list(PREDICTED), errors="ignore"), found], axis=1)


def beyond(fit: Fit, row: pd.Series) -> list[Beyond]:
    """What takes a row out of the table.

    Overfitting grows outwards on every axis. So a row is inside only where some run is as large, as
    long and on as few images; otherwise it is beyond the run that is so in the fewest steps. A
    large model on few images is outside where the table has large models and few images, but never
    together. Inwards, the table's edge alone counts.
    """
    columns = list(COLUMNS.values())
    sign = np.array([1 if OUTWARD[axis] == "high" else -1 for axis in COLUMNS])
    known = np.log(fit.levels[columns].to_numpy(float)) * sign
    at = np.log(row[columns].to_numpy(float)) * sign
    steps = [np.diff(np.unique(values)) for values in known.T]
    last, first = (np.array([d[i] if len(d) else np.inf for d in steps]) for i in (-1, 0))
    outward = np.where(at - known > np.log(SAME), at - known, 0)
    nearest = outward[(outward / last).sum(1).argmin()]
    inward = np.where(known.min(0) - at > np.log(SAME), known.min(0) - at, 0)
    return [
        Beyond(axis, end, float(far / step), float(np.exp(far)))
        for i, (axis, end) in enumerate(OUTWARD.items())
        for far, step, end in (
            (nearest[i], last[i], end),
            (inward[i], first[i], "low" if end == "high" else "high"),
        )
        if far > 0 and np.isfinite(step)
    ]


def weighted(
    fit: Fit, logs: Array, spreads: Array, edges: list[Beyond], overfit: bool
) -> tuple[float, float]:
    """The weighted forms' log loss, or difference of two, and half its 95 % interval.

    Args:
        fit: whose forms they are.
        logs: what each form says.
        spreads: the standard deviation of each over rows drawn again.
        edges: those that the row lies beyond.
        overfit: whether it overfits.
    """
    axes = [edge.axis for edge in edges] or [INSIDE]
    weights = np.mean([fit.weights(axis, overfit) for axis in axes], axis=0)
    errors = [fit.error(edge.axis, overfit, edge.end) * _grown(fit, edge) for edge in edges]
    errors = errors or [fit.error(INSIDE, overfit)]
    middle = weights @ logs
    variance = weights @ (logs - middle) ** 2 + weights @ spreads**2
    return float(middle), float(Z95 * np.sqrt(variance + np.sum(np.square(errors))))


def _grown(fit: Fit, edge: Beyond) -> float:
    """An error grows with the distance; one that is known from inside alone, from one step on."""
    return max(1.0, edge.steps) if fit.checked(edge.axis, edge.end) else 1 + edge.steps


def _unchecked(axis: str) -> str:
    return f"the table has too few kinds of {axis} to check itself beyond them"


def _spread(fitted: Fitted, wanted: pd.DataFrame) -> Array:
    """Standard deviation of the log loss of each row over the refits."""
    if fitted.refits is None:
        return np.zeros(len(wanted))
    refits = fitted.log_loss(wanted, fitted.refits)
    low, high = np.quantile(refits, (0.16, 0.84), axis=0)  # a few refits may have gone astray
    return (high - low) / 2


def _why_not(fit: Fit, row: pd.Series, edges: list[Beyond]) -> str | None:
    for axis, column in COLUMNS.items():
        values = fit.levels[column]
        if values.nunique() == 1 and abs(np.log(row[column] / values.iloc[0])) > np.log(SAME):
            kind = {"data": "number of images"}.get(axis, axis)
            return f"the table has one {kind} only: {column} {values.iloc[0]:,.4g}"
    if reason := fit.refusals.get(INSIDE):
        return reason
    for axis, end, _, times in edges:
        if reason := fit.refusals.get(f"{axis} {end}"):
            return reason
        if times > FARTHEST[axis]:
            return (
                f"{COLUMNS[axis]} {row[COLUMNS[axis]]:,.0f} is {times:.1f} times beyond what the "
                f"table has; {FARTHEST[axis]:g} times is the most that it is asked to tell"
            )
    if str(row["source"]) not in fit.scale.sources:
        there = ", ".join(fit.scale.sources)
        return f"the table has no runs on images of {row['source']}; it has: {there}"
    return None

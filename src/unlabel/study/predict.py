"""Losses of runs that nobody has trained, with intervals, or why the table cannot tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from unlabel.study.fit import COLUMNS, INSIDE, OUTWARD, OVERFIT, Fit
from unlabel.study.fitted import Fitted
from unlabel.study.forms import Array

FARTHEST = {"model": 8.0, "data": 8.0, "length": 4.0}
"""Most times beyond the table's edge that anything is said: lengths are the hardest to extend."""
WITHIN = 1.001
"""Factor by which a row may pass the edge and still count as inside."""
Z95 = 1.96
PREDICTED = ("val_loss_predicted", "val_loss_low", "val_loss_high", "note")


class Beyond(NamedTuple):
    """An end of the table that a row lies beyond.

    ``steps`` are in those from the last value but one to the last, as logarithms.
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
        ``note``: why nothing is said, or what could not be checked.
    """
    fit.refit()
    logs = np.array([fitted.log_loss(wanted) for fitted in fit.forms])
    spreads = np.array([_spread(fitted, wanted) for fitted in fit.forms])
    crowded = fit.excess(wanted) > OVERFIT
    rows = []
    for place, (_, row) in enumerate(wanted.iterrows()):
        beyond = list(_beyond(fit, row))
        if reason := _why_not(fit, row, beyond):
            rows.append((np.nan, np.nan, np.nan, reason))
            continue
        middle, width = _weighted(
            fit, logs[:, place], spreads[:, place], beyond, bool(crowded[place])
        )
        unchecked = [b.axis for b in beyond if f"{b.axis} {b.end}" not in fit.held_out]
        note = "; ".join(map(_unchecked, unchecked))
        rows.append((*np.exp([middle, middle - width, middle + width]), note))
    found = pd.DataFrame(rows, columns=list(PREDICTED), index=wanted.index)
    return pd.concat([wanted.drop(columns=list(PREDICTED), errors="ignore"), found], axis=1)


def _weighted(
    fit: Fit, logs: Array, spreads: Array, beyond: list[Beyond], overfit: bool
) -> tuple[float, float]:
    """Log loss of one row by the weighted forms, and half its interval."""
    weights = np.mean(
        [fit.weights(axis, overfit) for axis in [b.axis for b in beyond] or [INSIDE]], axis=0
    )
    errors = [fit.error(b.axis, overfit, b.end) * _grown(fit, b) for b in beyond]
    errors = errors or [fit.error(INSIDE, overfit)]
    middle = weights @ logs
    variance = weights @ (logs - middle) ** 2 + weights @ spreads**2
    return float(middle), float(Z95 * np.sqrt(variance + np.sum(np.square(errors))))


def _grown(fit: Fit, beyond: Beyond) -> float:
    """An error grows with the distance; one that is known from inside alone, from one step on."""
    checked = f"{beyond.axis} {beyond.end}" in fit.held_out
    return max(1.0, beyond.steps) if checked else 1 + beyond.steps


def _unchecked(axis: str) -> str:
    return f"the table has too few kinds of {axis} to check itself beyond them"


def _spread(fitted: Fitted, wanted: pd.DataFrame) -> Array:
    """Standard deviation of the log loss of each row over the refits."""
    if fitted.refits is None:
        return np.zeros(len(wanted))
    refits = fitted.log_loss(wanted, fitted.refits)
    low, high = np.quantile(refits, (0.16, 0.84), axis=0)  # a few refits may have gone astray
    return (high - low) / 2


def _beyond(fit: Fit, row: pd.Series) -> Iterator[Beyond]:
    for axis, column in COLUMNS.items():
        values = np.log(np.sort(fit.runs[column].unique()))
        at = np.log(row[column])
        past = {"low": values[0] - at, "high": at - values[-1]}
        end = "low" if past["low"] > past["high"] else "high"
        if len(values) < 2 or past[end] <= np.log(WITHIN):
            continue
        step = values[1] - values[0] if end == "low" else values[-1] - values[-2]
        yield Beyond(axis, end, float(past[end] / step), float(np.exp(past[end])))


def _why_not(fit: Fit, row: pd.Series, beyond: list[Beyond]) -> str | None:
    for axis, column in COLUMNS.items():
        values = fit.runs[column]
        if values.nunique() == 1 and abs(np.log(row[column] / values.iloc[0])) > np.log(WITHIN):
            return f"the table has one {axis} only: {column} {values.iloc[0]:,.0f}"
    for axis, end, _, times in beyond:
        if end == OUTWARD[axis] and (reason := fit.why_not(axis)):
            return reason
        if times > FARTHEST[axis]:
            return (
                f"{COLUMNS[axis]} {row[COLUMNS[axis]]:,.0f} is {times:.1f} times beyond the "
                f"table's edge; {FARTHEST[axis]:g} times is the most that it is asked to tell"
            )
    if str(row["source"]) not in fit.scale.sources:
        return f"images of {row['source']} stand nowhere in the table"
    return None

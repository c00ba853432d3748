"""Losses of runs that nobody has trained, with intervals, or why the table cannot tell."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from unlabel.study.fit import AXES, INSIDE, OVERFIT, Fit
from unlabel.study.forms import Array
from unlabel.study.table import NUMBERS

FARTHEST = {"params_m": 8.0, "unique_images": 8.0, "samples_seen": 4.0}
"""Most times beyond the table's edge that anything is said: lengths are the hardest to extend."""
WITHIN = 1.001
"""Factor by which a row may pass the edge and still count as inside."""
Z95 = 1.96
COLUMNS = ("val_loss_predicted", "val_loss_low", "val_loss_high", "note")


def predict(fit: Fit, wanted: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``wanted`` with what the fit says of their validation loss.

    Beyond an edge of the table the forms count by their errors beyond that edge. The 95 % interval
    has three parts: what resampled runs change, how far the forms disagree, and the error on the
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
    overfit = fit.excess(wanted) > OVERFIT
    rows = []
    for place, (_, row) in enumerate(wanted.iterrows()):
        reach = dict(_reach(fit, row))
        if reason := _why_not(fit, row, reach):
            rows.append((np.nan, np.nan, np.nan, reason))
            continue
        beyond = {axis if axis in fit.held_out else INSIDE: far for axis, far in reach.items()}
        beyond = beyond or {INSIDE: 0.0}
        crowded = bool(overfit[place])
        weights = np.mean([fit.weights(axis, crowded) for axis in beyond], axis=0)
        middle = weights @ logs[:, place]
        errors = [fit.error(axis, crowded) * _grown(axis, far) for axis, far in beyond.items()]
        variance = weights @ (logs[:, place] - middle) ** 2 + weights @ spreads[:, place] ** 2
        width = Z95 * np.sqrt(variance + np.sum(np.square(errors)))
        note = "; ".join(_unchecked(axis) for axis in reach if axis not in fit.held_out)
        rows.append((*np.exp([middle, middle - width, middle + width]), note))
    found = pd.DataFrame(rows, columns=list(COLUMNS), index=wanted.index)
    return pd.concat([wanted.drop(columns=list(COLUMNS), errors="ignore"), found], axis=1)


def _grown(axis: str, far: float) -> float:
    """An error grows with the distance; one that is known from inside alone, from one step on."""
    return 1 + far if axis == INSIDE else max(1.0, far)


def _unchecked(axis: str) -> str:
    return f"the table has too few kinds of {axis} to check itself beyond them"


def _spread(fitted, wanted: pd.DataFrame) -> Array:
    """Standard deviation of the log loss of each row over the refits."""
    if not fitted.refits:
        return np.zeros(len(wanted))
    refits = np.array([fitted.log_loss(wanted, p) for p in fitted.refits])
    low, high = np.quantile(refits, (0.16, 0.84), axis=0)  # a few refits may have gone astray
    return (high - low) / 2


def _reach(fit: Fit, row: pd.Series) -> Iterator[tuple[str, float]]:
    """The edges that a row lies beyond, and how far, in steps from the next value to the edge's."""
    for axis, (column, _) in AXES.items():
        values = np.log(np.sort(fit.runs[column].unique()))
        if len(values) < 2:
            continue
        at = np.log(row[column])
        past = max(at - values[-1], values[0] - at)
        if past > np.log(WITHIN):
            ends = (values[-1] - values[-2]) if at > values[-1] else (values[1] - values[0])
            yield axis, float(past / ends)


def _why_not(fit: Fit, row: pd.Series, reach: dict[str, float]) -> str | None:
    for axis, (column, _) in AXES.items():
        values = fit.runs[column]
        if values.nunique() == 1 and abs(np.log(row[column] / values.iloc[0])) > np.log(WITHIN):
            return f"the table has one {axis} only: {column} {values.iloc[0]:,.0f}"
    for axis in reach:
        if reason := fit.why_not(axis):
            return reason
    for column in NUMBERS:
        values = fit.runs[column]
        times = max(row[column] / values.max(), values.min() / row[column])
        if times > FARTHEST[column]:
            return (
                f"{column} {row[column]:,.0f} is {times:.1f} times beyond the table's edge; "
                f"{FARTHEST[column]:g} times is the most that it is asked to tell"
            )
    if str(row["source"]) not in fit.scale.sources:
        return f"images of {row['source']} stand nowhere in the table"
    return None

"""Which single run would teach most: the one whose loss, once known, leaves least unknown.

What is unknown about a question (what a change of the best run would bring) is the interval of the
answer. A run whose losses move together with the answer over fits to rows drawn again would take
away what that spread adds to it; what would be left is the variance given that run's loss, measured
with the noise of a run (the linear Gaussian rule of optimal design). What else the interval holds,
the errors on rows that were held out, stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from unlabel.scaling.budget import Prices
from unlabel.scaling.outlook import Gain, Outlook, Place
from unlabel.scaling.predict import Z95
from unlabel.scaling.table import NUMBERS

MOST = 4.0
"""Times the hours of the table's most expensive run that the next one may take."""


class Lesson(NamedTuple):
    """A run that is not in the table, and what it would do to the spread of the answers."""

    place: Place
    narrower: float
    """Share of the answers' standard deviation that it takes away."""
    hours: float
    """NaN where the table does not say how long runs take."""


def next_run(
    outlook: Outlook,
    leader: Place,
    questions: Sequence[Place],
    models: Sequence[Place],
    prices: Prices | None,
) -> Lesson | None:
    """The run that would narrow most what is said of the change from ``leader`` to ``questions``.

    Args:
        outlook: of the method's fit.
        leader: the run that would be changed.
        questions: what it would be changed to; of those that the fit does not speak of, none count.
        models: the models that can be trained, on all the images that there are.
        prices: of an image seen; without them the next run may be any.

    Returns:
        The run; ``None`` where there is none that is not in the table, or nothing is said.
    """
    gains = {place: outlook.gain(leader, place) for place in questions}
    asked = [place for place, gain in gains.items() if not gain.why_not]
    candidates = _candidates(outlook.fit.levels, models)
    hours = np.array([prices.hours(place) if prices else np.nan for place in candidates])
    if prices:
        runs = outlook.fit.runs
        most = MOST * (runs["seconds"].max() / 3600)
        keep = hours <= most
        candidates, hours = [c for c, ok in zip(candidates, keep, strict=True) if ok], hours[keep]
    if not (candidates and asked):
        return None
    draws, weights = outlook.draws([leader, *asked, *candidates])
    draws[:, 1 : len(asked) + 1] -= draws[:, :1]
    draws = draws[:, 1:]
    noise = np.log1p(outlook.fit.errors["inside"]) ** 2
    away = draws - weights @ draws
    cov = (away * weights[:, None]).T @ away
    of_answers, of_runs = np.split(np.diag(cov), [len(asked)])
    stated = np.array([_variance(gains[place]) for place in asked])
    before = np.maximum(stated, of_answers).sum()  # the draws are weighted over all edges alike
    if not before > 0:
        return None
    settled = (cov[: len(asked), len(asked) :] ** 2 / (of_runs + noise)).sum(0)
    best = int(settled.argmax())
    left = max(0.0, before - settled[best]) / before
    return Lesson(candidates[best], float(1 - np.sqrt(left)), float(hours[best]))


def _variance(gain: Gain) -> float:
    """Of the change in the log of the loss, by its 95 % interval."""
    return (float(np.log1p(-gain.low) - np.log1p(-gain.high)) / (2 * Z95)) ** 2


def _candidates(levels: pd.DataFrame, models: Sequence[Place]) -> list[Place]:
    """Every model, share and length of the table, and twice its longest, that was not trained."""
    amounts, lengths = (sorted(levels[name].unique()) for name in NUMBERS[1:])
    amounts = [n for n in amounts if n <= models[0].images]
    trained = set(levels[list(NUMBERS)].itertuples(index=False, name=None))
    places = (
        model._replace(images=images, samples=samples)
        for model, images, samples in product(models, amounts, [*lengths, 2 * lengths[-1]])
    )
    return [place for place in places if tuple(place[1:]) not in trained]

"""Which single run would teach most: the one whose loss, once known, leaves least unknown.

What is unknown about a question (the loss of a run that nobody has trained) is the spread of its
answers over fits to rows drawn again. A run whose answers move together with it over those fits
would settle it; what would be left is the variance given that run's loss, measured with the noise
of a run (the linear Gaussian rule of optimal design).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from unlabel.scaling.budget import Prices
from unlabel.scaling.outlook import Outlook, Place

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
    outlook: Outlook, questions: Sequence[Place], models: Sequence[Place], prices: Prices | None
) -> Lesson | None:
    """The run that would narrow the answers to ``questions`` most.

    Args:
        outlook: of the method's fit.
        questions: what is asked about.
        models: the models that can be trained, on all the images that there are.
        prices: of an image seen; without them the next run may be any.

    Returns:
        The run; ``None`` where there is none that is not in the table.
    """
    candidates = _candidates(outlook.fit.runs, models)
    hours = np.array([prices.hours(place) if prices else np.nan for place in candidates])
    if prices:
        runs = outlook.fit.runs
        most = MOST * (runs["seconds"].max() / 3600)
        keep = hours <= most
        candidates, hours = [c for c, ok in zip(candidates, keep, strict=True) if ok], hours[keep]
    if not candidates:
        return None
    draws, weights = outlook.draws([*questions, *candidates])
    noise = np.log1p(outlook.fit.errors["inside"]) ** 2
    away = draws - weights @ draws
    cov = (away * weights[:, None]).T @ away
    asked = slice(0, len(questions))
    variances = np.diag(cov)
    settled = cov[asked, len(questions) :] ** 2 / (variances[len(questions) :] + noise)
    before = variances[asked].sum()
    best = int(settled.sum(0).argmax())
    if not before > 0:
        return None
    left = max(0.0, before - settled[:, best].sum()) / before
    return Lesson(candidates[best], float(1 - np.sqrt(left)), float(hours[best]))


def _candidates(runs: pd.DataFrame, models: Sequence[Place]) -> list[Place]:
    """Every model, share and length of the table, and twice its longest, that was not trained."""
    amounts, lengths = sorted(runs["unique_images"].unique()), sorted(runs["samples_seen"].unique())
    amounts = [n for n in amounts if n <= models[0].images]
    trained = set(
        runs[["params_m", "unique_images", "samples_seen"]].itertuples(index=False, name=None)
    )
    places = (
        model._replace(images=images, samples=samples)
        for model, images, samples in product(models, amounts, [*lengths, 2 * lengths[-1]])
    )
    return [place for place in places if tuple(place[1:]) not in trained]

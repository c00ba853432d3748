"""What a number of hours buys: which model, trained for how long, comes to the lowest loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from unlabel.scaling.outlook import Outlook, Place

HOUR = 3600.0
LENGTHS = 25
"""Lengths to choose from, between the table's shortest and what the hours buy."""
FARTHEST = 4.0
"""Most times the table's longest run that a run of the budget may be (as `predict` allows)."""


class Prices:
    """Seconds that an image seen costs, by model: those of the machine that trained the runs."""

    def __init__(self, runs: pd.DataFrame) -> None:
        """``runs`` have a column ``seconds``, the training time of each.

        Between models and beyond them the price is a power of the number of parameters.
        """
        known = runs[runs["seconds"] > 0]
        price = np.log(known["seconds"] / known["samples_seen"])
        size = np.log(known["params_m"])
        by_size = price.groupby(size).median()
        self.sizes, self.prices = by_size.index.to_numpy(), by_size.to_numpy()
        self.slope = np.polyfit(self.sizes, self.prices, 1)[0] if len(by_size) > 1 else np.nan

    @staticmethod
    def known(runs: pd.DataFrame) -> bool:
        """Whether the table says how long its runs took."""
        return "seconds" in runs and bool((runs["seconds"] > 0).any())

    def hours(self, place: Place) -> float:
        """Of one run; NaN for another size where the table has one model only."""
        at = np.log(place.params_m)
        nearest = int(np.abs(self.sizes - at).argmin())
        away = at - self.sizes[nearest]
        log_price = self.prices[nearest] + (self.slope * away if abs(away) > 1e-6 else 0.0)
        return float(np.exp(log_price)) * place.samples / HOUR


class Option(NamedTuple):
    """A run that the hours buy, with its predicted loss and 95 % interval."""

    place: Place
    hours: float
    loss: float
    low: float
    high: float


def best_options(
    outlook: Outlook, models: list[Place], prices: Prices, hours: float
) -> list[Option]:
    """The best length of each model within the hours, the lowest loss first.

    Args:
        outlook: of the method's fit.
        models: each model, and twice the largest, on the images that there are.
        prices: of an image seen.
        hours: to spend on one run.

    Returns:
        One option for each model of which the fit says anything that the hours buy.
    """
    lengths = outlook.fit.runs["samples_seen"]
    found = (
        _best(outlook, _affordable(model, prices, hours, lengths.min(), lengths.max()), prices)
        for model in models
    )
    return sorted((option for option in found if option), key=lambda option: option.loss)


def _affordable(
    model: Place, prices: Prices, hours: float, shortest: float, longest: float
) -> list[Place]:
    ceiling = min(hours / prices.hours(model._replace(samples=1.0)), FARTHEST * longest)
    if not ceiling >= shortest:
        return []
    return [model._replace(samples=float(n)) for n in np.geomspace(shortest, ceiling, LENGTHS)]


def _best(outlook: Outlook, places: list[Place], prices: Prices) -> Option | None:
    return min(_options(outlook, places, prices), key=lambda option: option.loss, default=None)


def _options(outlook: Outlook, places: list[Place], prices: Prices) -> Iterator[Option]:
    if not places:
        return
    columns = ["val_loss_predicted", "val_loss_low", "val_loss_high"]
    for place, (loss, low, high) in zip(
        places, outlook.losses(places)[columns].to_numpy(float), strict=True
    ):
        if np.isfinite(loss):
            yield Option(place, prices.hours(place), loss, low, high)

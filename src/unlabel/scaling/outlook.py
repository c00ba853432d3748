"""What a change would bring, by the fit of one method's runs: a gain with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from unlabel.scaling.fit import COLUMNS, INSIDE, OVERFIT, Fit
from unlabel.scaling.fitted import Fitted
from unlabel.scaling.forms import Array
from unlabel.scaling.predict import beyond, predict, weighted

TWICE = 2.0


class Place(NamedTuple):
    """A run that is, or could be: a model, its parameters in millions, images, and images seen."""

    model: str
    params_m: float
    images: float
    samples: float

    def more_images(self, times: float = TWICE) -> Place:
        """The same model, trained as long on more images."""
        return self._replace(images=self.images * times)

    def longer(self, times: float = TWICE) -> Place:
        """The same model on the same images, trained for longer."""
        return self._replace(samples=self.samples * times)

    def larger(self, times: float = TWICE) -> Place:
        """A larger model, trained as long on the same images."""
        model = f"a model of {self.params_m * times:.3g} M parameters"
        return self._replace(model=model, params_m=self.params_m * times)


class Gain(NamedTuple):
    """The share of the loss that a change takes away, with its 95 % interval."""

    middle: float
    low: float
    high: float
    why_not: str = ""
    """Why nothing is said; the numbers are NaN then."""
    note: str = ""
    """What could not be checked."""


class Outlook:
    """A fit that is asked about runs and about the difference between two."""

    def __init__(self, fit: Fit) -> None:
        fit.refit()
        self.fit = fit

    def losses(self, places: Sequence[Place]) -> pd.DataFrame:
        """A row a place, as `predict` gives it."""
        return predict(self.fit, self._rows(places))

    def gain(self, before: Place, after: Place) -> Gain:
        """What it brings to train ``after`` in place of ``before``.

        What the forms miss at both alike cancels, so that the interval is that of the difference:
        what rows drawn again change in it, how far the forms disagree on it, and the error on rows
        that were held out beyond the edge that ``after`` lies beyond.
        """
        rows = self._rows((before, after))
        notes = predict(self.fit, rows)
        silent = notes["val_loss_predicted"].isna()
        if silent.any():
            return Gain(np.nan, np.nan, np.nan, notes.loc[silent, "val_loss_note"].iloc[-1])
        logs = np.array([fitted.log_loss(rows) for fitted in self.fit.forms])
        spreads = np.array([_spread_of_difference(fitted, rows) for fitted in self.fit.forms])
        overfit = bool(self.fit.excess(rows)[1] > OVERFIT)
        middle, width = weighted(
            self.fit,
            logs[:, 1] - logs[:, 0],
            spreads,
            beyond(self.fit, rows.iloc[1]),
            overfit,
        )
        # A higher loss is a negative gain, so that the ends change places.
        gain, low, high = 1 - np.exp([middle, middle + width, middle - width])
        return Gain(float(gain), float(low), float(high), note=str(notes["val_loss_note"].iloc[1]))

    def overfits(self, place: Place) -> bool:
        """Whether more images alone would lower its loss by more than the margin."""
        return bool(self.fit.excess(self._rows([place]))[0] > OVERFIT)

    def draws(self, places: Sequence[Place]) -> tuple[Array, Array]:
        """Log losses that rows drawn again lead to, (draws, places), and the weight of each draw.

        Weights are those inside the table, averaged over runs that overfit and others.
        """
        rows = self._rows(places)
        kinds = [
            self.fit.weights(axis, over) for axis in (*COLUMNS, INSIDE) for over in (False, True)
        ]
        parts, weights = [], []
        for fitted, weight in zip(self.fit.forms, np.mean(kinds, axis=0), strict=True):
            if fitted.refits is not None and weight > 0:
                parts.append(fitted.log_loss(rows, fitted.refits))
                weights.append(np.full(len(fitted.refits), weight / len(fitted.refits)))
        share = np.concatenate(weights)
        return np.concatenate(parts), share / share.sum()

    def _rows(self, places: Sequence[Place]) -> pd.DataFrame:
        rows = pd.DataFrame(places).rename(
            columns={"images": "unique_images", "samples": "samples_seen"}
        )
        return rows.assign(source=self.fit.scale.sources[0])


def _spread_of_difference(fitted: Fitted, rows: pd.DataFrame) -> float:
    if fitted.refits is None:
        return 0.0
    both = fitted.log_loss(rows, fitted.refits)
    low, high = np.quantile(both[:, 1] - both[:, 0], (0.16, 0.84))
    return float(high - low) / 2

"""A downstream figure from the validation loss: a line through the runs that do not overfit.

Runs that overfit do better than the line says, by points (data-scaling facts, section 3): they are
left out, and nothing is said of such runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from unlabel.scaling.table import LOSS

Array = np.ndarray

FEWEST = 5
"""Runs that a line is drawn through."""
BETTER = 0.8
"""Share of the median's error that the line's may be at most, for anything to be said."""
DRAWS = 1000
Z95 = 1.96


@dataclass(frozen=True)
class Downstream:
    """One figure of one method's runs: figure = a + b * loss.

    Attributes:
        column: the figure.
        runs: how many runs the line is drawn through.
        line: a and b.
        lines: those of runs drawn again, shaped (draws, 2).
        error: root-mean-square error on each model's runs of the line through the other models',
            in units of the figure; of each run's, where there is one model. NaN if too few.
        baseline: the same of the other models' median.
        top: the most that the figure can be, 1 or 100.
    """

    column: str
    runs: int
    line: Array
    lines: Array
    error: float
    baseline: float
    top: float

    @classmethod
    def of(cls, runs: pd.DataFrame, overfit: pd.Series, column: str, seed: int = 0) -> Downstream:
        """Draw the line.

        Args:
            runs: one method's, as `read_runs` gives them.
            overfit: whether each overfits.
            column: the figure; rows without it are left out.
            seed: of the rows drawn again.
        """
        rows = runs[~overfit & runs[column].notna()]
        count = len(rows)
        loss, figure = rows[LOSS].to_numpy(float), rows[column].to_numpy(float)
        top = 1.0 if (runs[column].dropna() <= 1).all() else 100.0
        if count < FEWEST:
            nothing = np.full((1, 2), np.nan)
            return cls(column, count, nothing[0], nothing, np.nan, np.nan, top)
        drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), DRAWS)
        groups = rows["model"] if rows["model"].nunique() > 1 else rows.index.to_series()
        apart = [(groups == group).to_numpy() for group in groups.unique()]
        lines = _lines(loss, figure, ~np.array(apart))
        errors = [(a + b * loss - figure)[out] for (a, b), out in zip(lines, apart, strict=True)]
        medians = [np.median(figure[~out]) - figure[out] for out in apart]
        return cls(
            column,
            count,
            line=_lines(loss, figure, np.ones((1, count)))[0],
            lines=_lines(loss, figure, drawn),
            error=_rms(errors),
            baseline=_rms(medians),
            top=top,
        )

    @property
    def falls_with_loss(self) -> bool:
        """Whether a lower loss means a better figure, beyond doubt (95 %)."""
        return bool(np.quantile(self.lines[:, 1], 0.975) < 0)

    def as_dict(self) -> dict[str, Any]:
        """The line, its intervals over runs drawn again and its worth, in plain types."""
        ends = np.quantile(self.lines, (0.025, 0.975), axis=0)
        return {
            "figure": self.column,
            "runs": self.runs,
            "a": float(self.line[0]),
            "b": float(self.line[1]),
            "a_interval": ends[:, 0].tolist(),
            "b_interval": ends[:, 1].tolist(),
            "error": self.error,
            "median_error": self.baseline,
            "refused": self.why_not(),
        }

    def why_not(self) -> str | None:
        """Why nothing is said."""
        if self.runs < FEWEST:
            return (
                f"{self.column} is known of {self.runs} runs that do not overfit; a line needs "
                f"{FEWEST}"
            )
        if self.error < BETTER * self.baseline:
            return None
        return (
            f"from the loss, {self.column} of a model left out is off by {self.error:.3g}, not a "
            f"fifth better than by the median ({self.baseline:.3g})"
        )

    def predict(self, loss: Array, low: Array, high: Array) -> tuple[Array, Array, Array]:
        """The figure at each loss, and its 95 % interval.

        The interval has three parts: that of the loss, what runs drawn again change in the line,
        and the error on models left out.

        Args:
            loss: of runs that do not overfit.
            low: lower ends of their 95 % intervals.
            high: upper ends.
        """
        middle = self.line[0] + self.line[1] * loss
        drawn = self.lines[:, :1] + self.lines[:, 1:] * np.ravel(loss)
        ends = np.quantile(drawn, (0.16, 0.84), axis=0)  # a few lines may be steep
        spread = np.reshape((ends[1] - ends[0]) / 2, np.shape(loss))
        of_loss = self.line[1] * (high - low) / (2 * Z95)
        width = Z95 * np.sqrt(of_loss**2 + spread**2 + self.error**2)
        value, below, above = np.clip([middle, middle - width, middle + width], 0, self.top)
        return value, below, above

    def change(self, before: float, low: float, middle: float, high: float) -> Array:
        """How far the figure moves when the loss falls: middle and ends of the 95 % interval.

        The line's own error is the same before and after, and cancels.

        Args:
            before: the loss of a run that does not overfit.
            low: the least share of it that goes away.
            middle: the share that is expected to.
            high: the most.
        """
        falls = before * np.array([middle, low, high])
        expected, least, most = -self.line[1] * falls
        slopes = np.quantile(self.lines[:, 1], (0.025, 0.975)) - self.line[1]
        of_slope = abs(falls[0]) * float(np.ptp(slopes)) / 2
        below, above = np.hypot([expected - least, most - expected], of_slope)
        return np.array([expected, expected - below, expected + above])


def _rms(errors: list[Array]) -> float:
    return float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))


def _lines(loss: Array, figure: Array, counts: Array) -> Array:
    """Least squares: a and b for each row of ``counts``. Level where all losses are the same."""
    weights = counts / counts.sum(1, keepdims=True)
    x, y = weights @ loss, weights @ figure
    spread = weights @ loss**2 - x**2
    level = spread < 1e-12 * x**2
    slope = np.where(level, 0, (weights @ (loss * figure) - x * y) / np.where(level, 1, spread))
    return np.stack([y - slope * x, slope], 1)

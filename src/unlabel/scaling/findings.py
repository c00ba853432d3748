"""What a table of runs shows without any fit: overfitting, crossovers, and what losses tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table
from scipy.stats import pearsonr, spearmanr

from unlabel.scaling.best import NOISE, Best, best_models, best_table, seed_noise
from unlabel.scaling.table import LOSS, accuracies, levelled, main_source

MARGIN = 0.005
"""How much worse than the largest data's a loss must be, where seeds do not say how much is noise
(data-scaling facts, section 4, rule B)."""
ALIKE = ["method", "model", "source"]
SAME_DATA = [*ALIKE, "unique_images"]
SAME_LENGTH = [*ALIKE[:2], "samples_seen"]
FEWEST = 4
"""Runs that a correlation is taken over."""


def overfitting(runs: pd.DataFrame) -> pd.DataFrame:
    """Which runs overfit, by two rules and by their downstream figures.

    Args:
        runs: as `levelled` gives them.

    Returns:
        A row for each of ``runs`` with three flags: ``longer_was_worse``, where a shorter run of
        the same model on the same images had a lower loss; ``more_data_was_better``, where the
        largest data's loss at the same length is lower by more than the margin; and
        ``worse_features``, where the first downstream figure of such a shorter run was higher.
    """
    methods = runs.groupby("method", sort=False)  # whose losses, and their noise, are of one kind
    return pd.concat([_overfitting(rows) for _, rows in methods]).loc[runs.index]


def _overfitting(runs: pd.DataFrame) -> pd.DataFrame:
    margin = _margin(runs)
    flags = pd.DataFrame(
        False,
        index=runs.index,
        columns=["longer_was_worse", "more_data_was_better", "worse_features"],
    )
    found = accuracies(runs)
    noise = margin if runs.duplicated([*SAME_DATA, "samples_seen"]).any() else 0.0
    for _, rows in runs.groupby(SAME_DATA):
        flags.loc[rows.index, "longer_was_worse"] = _beaten(rows, LOSS, lower=True) > noise
        if found:
            flags.loc[rows.index, "worse_features"] = _beaten(rows, found[0], lower=False) > 0
    for _, rows in runs.groupby(SAME_LENGTH):
        own = rows[rows["source"] == main_source(rows)]
        ample = own.loc[own["unique_images"] == own["unique_images"].max(), LOSS].mean()
        flags.loc[own.index, "more_data_was_better"] = own[LOSS] > ample + margin
    return flags


def _margin(runs: pd.DataFrame) -> float:
    """Twice the spread over seeds where there are seeds."""
    noise = seed_noise(runs, LOSS)
    return MARGIN if noise is None else NOISE * noise


def _beaten(rows: pd.DataFrame, column: str, *, lower: bool) -> pd.Series:
    """By how much the best of the shorter runs is better than each."""
    values = rows.groupby("samples_seen")[column].mean().dropna().sort_index()
    best = (values.cummin() if lower else values.cummax()).shift()
    worse = (values - best) if lower else (best - values)
    return rows["samples_seen"].map(worse).fillna(-np.inf)


@dataclass(frozen=True)
class Correlation:
    """Of a loss and a downstream figure.

    Attributes:
        method: of the runs.
        loss: column of the loss.
        figure: column of the figure.
        which: of which runs.
        runs: how many.
        r: Pearson's.
        low: lower end of its 95 % interval (Fisher).
        high: upper end.
        rank: Spearman's.
    """

    method: str
    loss: str
    figure: str
    which: str
    runs: int
    r: float
    low: float
    high: float
    rank: float


def correlations(runs: pd.DataFrame, overfit: pd.Series) -> Iterator[Correlation]:
    """Of each loss with each downstream figure, over all runs, those that overfit and the rest.

    Each method's by itself: their losses are of different kinds.
    """
    for method, rows in runs.groupby("method", sort=False):
        yield from _correlations(str(method), rows, overfit[rows.index])


def _correlations(method: str, runs: pd.DataFrame, overfit: pd.Series) -> Iterator[Correlation]:
    sets = {"all": runs, "not overfit": runs[~overfit], "overfit": runs[overfit]}
    for loss in ("train_loss", LOSS):
        if loss not in runs:
            continue
        for figure in accuracies(runs):
            for which, rows in sets.items():
                known = rows[[loss, figure]].dropna()
                if len(known) >= FEWEST and (known.nunique() > 1).all():
                    found = pearsonr(known[loss], known[figure])
                    low, high = map(float, found.confidence_interval())
                    rank = float(spearmanr(known[loss], known[figure]).statistic)
                    r = float(found.statistic)
                    yield Correlation(method, loss, figure, which, len(known), r, low, high, rank)


def crossovers(runs: pd.DataFrame) -> Iterator[str]:
    """For each pair of models, from how many images on the larger has the lower loss.

    In between two amounts of data it is interpolated in the logarithm of their number. Where seeds
    say how much is noise, means that differ by less than two standard errors count as level.

    Args:
        runs: as `levelled` gives them.
    """
    several = [name for name in ("method", "source") if runs[name].nunique() > 1]
    for (method, source), rows in runs.groupby(["method", "source"], sort=False):
        names = {"method": method, "source": source}
        head = "".join(f"{names[name]}: " for name in several)
        noise = NOISE * (seed_noise(runs[runs["method"] == method], LOSS) or 0.0)
        for large, small, samples, found in _differences(rows):
            told = _from(found["gain"], noise * found["error"])
            yield f"{head}{large} beats {small} after {samples:,.0f} samples {told}"


def _differences(runs: pd.DataFrame) -> Iterator[tuple[str, str, float, pd.DataFrame]]:
    """The larger and the smaller model, the length, and for each number of images two columns.

    ``gain``: by how much the larger's mean loss is lower. ``error``: the standard error of that
    for seeds whose standard deviation is 1.
    """
    sizes = runs.groupby("model")["params_m"].first().sort_values()
    losses = runs.groupby(["samples_seen", "unique_images", "model"])[LOSS]
    mean, count = losses.mean().unstack("model"), losses.count().unstack("model")
    for small, large in combinations(sizes.index, 2):
        error = np.sqrt(1 / count[small] + 1 / count[large])
        pairs = pd.DataFrame({"gain": mean[small] - mean[large], "error": error}).dropna()
        for samples, found in pairs.groupby(level=0):
            if len(found) > 1:
                yield str(large), str(small), float(samples), found.droplevel(0)


def _from(gain: pd.Series, noise: pd.Series) -> str:
    """Where the gain passes the noise; both by the number of images, from few to many."""
    level = (gain.abs() <= noise) & (noise > 0)
    beats = (gain > noise).to_numpy()
    if level.all():
        return "nowhere by more than the noise of seeds, nor is beaten"
    if beats.all():
        return "at every amount of data"
    if not beats.any():
        return "at none"
    last = int(np.flatnonzero(~beats)[-1])
    if last == len(beats) - 1:
        return "not with the most data"
    images, values = gain.index.to_numpy(float), gain.to_numpy()
    if level.iloc[last]:
        told = f"level within the noise of seeds at {images[last]:,.0f}"
        return f"from {images[last + 1]:,.0f} images on; {told}"
    share = -values[last] / (values[last + 1] - values[last])
    at = images[last] * (images[last + 1] / images[last]) ** share
    return f"from about {at:,.0f} images on"


@dataclass(frozen=True)
class Findings:
    """All of it, to print or to put on a page."""

    runs: pd.DataFrame
    flags: pd.DataFrame
    correlations: list[Correlation]
    crossovers: list[str]
    best: list[Best]

    @classmethod
    def of(cls, runs: pd.DataFrame) -> Findings:
        """Look at a table as `read_runs` gives it."""
        level = levelled(runs)
        flags = overfitting(level)
        told = list(correlations(runs, cls._overfit(flags)))
        return cls(runs, flags, told, list(crossovers(level)), list(best_models(level)))

    @property
    def overfit(self) -> pd.Series:
        """Whether each run overfits by either rule."""
        return self._overfit(self.flags)

    @staticmethod
    def _overfit(flags: pd.DataFrame) -> pd.Series:
        return flags["longer_was_worse"] | flags["more_data_was_better"]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        counts = self.flags.sum()
        yield (
            f"{int(self.overfit.sum())} of {len(self.runs)} runs overfit: in "
            f"{counts['longer_was_worse']} a shorter run had a lower validation loss, in "
            f"{counts['more_data_was_better']} more images did. Features got worse with length in "
            f"{counts['worse_features']}."
        )
        yield best_table(self.best)
        yield from map(escape, self.crossovers)
        if self.correlations:
            table = Table(title="Correlation with downstream figures", title_justify="left")
            several = len({c.method for c in self.correlations}) > 1
            names = ("loss", "figure", "runs", "number", "r", "95 % interval", "rank")
            for name in ("method",) * several + names:
                table.add_column(name)
            for c in self.correlations:
                interval = f"{c.low:+.2f} to {c.high:+.2f}"
                row = (c.method,) * several + (c.loss, c.figure, c.which, str(c.runs))
                table.add_row(*map(escape, row), f"{c.r:+.3f}", interval, f"{c.rank:+.3f}")
            yield table

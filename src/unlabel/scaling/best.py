"""The best model for the images there are, by the loss and by each downstream figure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich.markup import escape
from rich.table import Table

from unlabel.scaling.table import LOSS, accuracies

NOISE = 2.0
"""Standard errors that a difference must pass."""
RUN = ["model", "samples_seen"]


@dataclass(frozen=True)
class Best:
    """The best run on some images, by one column, beside the best run of any other model.

    Values are means over seeds.

    Attributes:
        method: of the runs.
        source: of the images.
        unique_images: how many.
        column: the validation loss, or a downstream figure.
        model: of the best run.
        samples_seen: its length.
        value: its loss or figure.
        other: the model that comes next; None where there is one model.
        other_value: its best.
        clear: whether the difference passes the noise of seeds; None where seeds do not say.
    """

    method: str
    source: str
    unique_images: float
    column: str
    model: str
    samples_seen: float
    value: float
    other: str | None
    other_value: float
    clear: bool | None


def best_models(runs: pd.DataFrame) -> Iterator[Best]:
    """By every column, for every amount of images, from few to many.

    Args:
        runs: as `levelled` gives them.
    """
    for key, rows in runs.groupby(["method", "source", "unique_images"]):
        for column in (LOSS, *accuracies(rows)):
            noise = seed_noise(runs[runs["method"] == key[0]], column)
            yield _best(rows.dropna(subset=[column]), key, column, noise)


def seed_noise(runs: pd.DataFrame, column: str) -> float | None:
    """Standard deviation over seeds, of all runs that were repeated; None where none was."""
    same = ["method", "source", "unique_images", *RUN]
    spread = runs.groupby(same)[column].std().dropna()
    return float(np.sqrt((spread**2).mean())) if len(spread) else None


def _best(rows: pd.DataFrame, key: tuple, column: str, noise: float | None) -> Best:
    method, source, images = key
    means = rows.groupby(RUN, as_index=False)[column].agg(["mean", "count"])
    means = means.sort_values("mean", ascending=column == LOSS)
    first = means.iloc[0]
    others = means[means["model"] != first["model"]]
    other, other_value, clear = None, np.nan, None
    if len(others):
        second = others.iloc[0]
        other, other_value = str(second["model"]), float(second["mean"])
        if noise is not None:
            error = noise * np.sqrt(1 / first["count"] + 1 / second["count"])
            clear = bool(abs(first["mean"] - other_value) > NOISE * error)
    return Best(
        method=method,
        source=source,
        unique_images=images,
        column=column,
        model=str(first["model"]),
        samples_seen=float(first["samples_seen"]),
        value=float(first["mean"]),
        other=other,
        other_value=other_value,
        clear=clear,
    )


def best_table(found: list[Best]) -> Table:
    """All of them, to print."""
    table = Table(title="The best model for the images there are", title_justify="left")
    for name in ("images", "by", "best run", "value", "next model", "its best"):
        table.add_column(name)
    seeds = any(b.clear is not None for b in found)
    if seeds:
        table.add_column("beyond noise")
    several = len({b.method for b in found}) > 1
    for b in found:
        images = f"{b.method}, " * several + f"{b.unique_images:,.0f} {b.source}"
        row = [images, b.column, f"{b.model}, {b.samples_seen:,.0f} seen", f"{b.value:.4g}"]
        row += [b.other, f"{b.other_value:.4g}"] if b.other else ["", ""]
        answer = {None: "", True: "yes", False: "no"}[b.clear]
        table.add_row(*map(escape, row), *[answer] * seeds)
    return table

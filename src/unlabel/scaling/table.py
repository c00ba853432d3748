"""A table of runs, one row a run, ours or anybody's: read with help, written as CSV or Parquet."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unlabel.atomic import write_bytes_atomic
from unlabel.errors import DataError, InputMissing, UsageError

NUMBERS = ("params_m", "unique_images", "samples_seen")
"""What a loss is a function of: millions of parameters, images that differ, and images seen."""
LOSS = "val_loss"
MOVING = "target_moves"
"""Column of methods whose loss is measured against a network that learns as well."""
UNNAMED = "images"
"""Of a data set whose name is not given."""
KIND = ("method", "model", "dataset", *NUMBERS, "seed")
"""What makes a row one run and not another."""
ACCURACIES = re.compile(r"knn|linear|finetune|top1|accuracy|_acc\b|^acc\d*$", re.IGNORECASE)
SHARE = re.compile(r"-(?P<percent>\d+(?:\.\d+)?)%?$")
"""The end of a data set's name that may be a share of it, in per cent."""
SAME = 1.02
"""Factor within which two numbers of an axis are the same: runs are rounded to whole batches."""
NEAR = 0.05
"""By how much numbers of images may differ from the shares in their names."""


def read_runs(path: Path, *, losses: bool = True) -> pd.DataFrame:
    """Read a table and check it.

    Columns that a table need not have are filled in: ``method`` ("any"), ``dataset`` ("images"),
    ``seed`` (0), ``target_moves`` (no) and ``params_m`` from ``parameters``. ``source`` is the data
    set without the share at the end of its name, see `sources`. Names are text, without spaces at
    their ends. Downstream figures that are not numbers count as not known.

    Args:
        path: a ``.csv`` or ``.parquet`` file.
        losses: whether every row must have its validation loss.

    Raises:
        InputMissing: there is no such file.
        DataError: it cannot be read, a column is missing, a row has no name or no positive number
            where there must be one, or stands twice, or a model has two sizes.
    """
    runs = read_table(path)
    if runs.empty:
        raise DataError(f"{path} has no rows.")
    if "params_m" not in runs and "parameters" in runs:
        runs["params_m"] = pd.to_numeric(runs["parameters"], errors="coerce") / 1e6
    needed = ["model", *NUMBERS, *([LOSS] if losses else [])]
    if missing := [name for name in needed if name not in runs]:
        raise DataError(
            f"{path} has no column {', '.join(missing)}; it has: {', '.join(runs.columns)}. "
            f"A table of runs needs {', '.join(needed)}."
        )
    for name in needed[1:]:
        runs[name] = pd.to_numeric(runs[name], errors="coerce").astype(float)
        wrong = runs.index[~(np.isfinite(runs[name]) & (runs[name] > 0))]
        if len(wrong):
            raise DataError(
                f"{path}, row {wrong[0] + 1} ({runs['model'][wrong[0]]}): {name} is not a number "
                f"above 0. {len(wrong)} of {len(runs)} rows are so: fill them in or leave them out."
            )
    for name, value in (("model", ""), ("method", "any"), ("dataset", UNNAMED)):
        runs[name] = [_name(each, value) for each in runs[name]] if name in runs else value
    runs["seed"] = runs["seed"].where(runs["seed"].notna(), 0) if "seed" in runs else 0
    runs[MOVING] = runs[MOVING].astype(str).str.lower() == "true" if MOVING in runs else False
    _check_models(path, runs)
    runs["source"] = sources(runs)
    for name in runs.columns:
        if (ACCURACIES.search(name) or name == "train_loss") and runs[name].dtype != bool:
            numbers = pd.to_numeric(runs[name], errors="coerce").astype(float)
            runs[name] = numbers.where(np.isfinite(numbers))
    twice = runs.index[runs.duplicated(list(KIND))]
    if losses and len(twice):
        row = runs.loc[twice[0]]
        raise DataError(
            f"{path}, row {twice[0] + 1}: {row['model']} on {row['unique_images']:,.0f} images for "
            f"{row['samples_seen']:,.0f} stands twice. Give repetitions a column seed."
        )
    return runs


def levels(values: pd.Series) -> pd.Series:
    """The values, where those within ``SAME`` of a smaller one are that one."""
    found: dict[float, float] = {}
    level = 0.0
    for value in np.sort(values.unique()):
        level = value if value > SAME * level else level
        found[value] = level
    return values.map(found)


def levelled(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs, where lengths and numbers of images that are nearly the same are the same."""
    kinds = runs.groupby(["method", "source"], sort=False)
    return runs.assign(**{name: kinds[name].transform(levels) for name in NUMBERS[1:]})


def main_source(runs: pd.DataFrame) -> str:
    """The source with the most rows; of equals, the one that comes first."""
    return str(runs["source"].value_counts(sort=True).index[0])


def sources(runs: pd.DataFrame) -> pd.Series:
    """Each row's data set, without the share in per cent that its name may end in.

    "in1k" of "in1k-10" and "in1k-100", or of "in1k-10" and "in1k": the end of a name is a share
    only where several names begin alike and their images are in proportion, which those of
    cifar-10 and cifar-100 are not.
    """
    names = runs["dataset"]
    stems = names.str.replace(SHARE, "", regex=True)
    percent = pd.to_numeric(names.str.extract(SHARE)["percent"], errors="coerce").fillna(100)
    wholes = (runs["unique_images"] / percent).groupby(stems)
    near = wholes.transform("max") <= (1 + NEAR) * wholes.transform("min")
    return stems.where(near & (names.groupby(stems).transform("nunique") > 1), names)


def _name(value: Any, unnamed: str) -> str:
    """A name as it was written: a column of numbers with gaps is read as 1.0, 2.0."""
    if pd.isna(value):
        return unnamed
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return text.strip() or unnamed


def _check_models(path: Path, runs: pd.DataFrame) -> None:
    unnamed = runs.index[runs["model"] == ""]
    if len(unnamed):
        raise DataError(f"{path}, row {unnamed[0] + 1}: model is empty. Name it.")
    sizes = runs.groupby(["method", "model"])["params_m"].agg(["min", "max"])
    if len(two := sizes[sizes["max"] > 1.01 * sizes["min"]]):
        low, high = two.iloc[0]
        raise DataError(
            f"{path}: model {two.index[0][1]} has {low:.4g} and {high:.4g} million parameters. "
            "Give models of two sizes two names."
        )


def write_runs(runs: pd.DataFrame, path: Path) -> Path:
    """Write a table, whole or not at all, in the format of the file's name.

    Raises:
        UsageError: the name ends neither in ``.csv`` nor in ``.parquet``.
    """
    content = io.BytesIO()
    if path.suffix == ".csv":
        runs.to_csv(content, index=False)
    elif path.suffix == ".parquet":
        runs.to_parquet(content, index=False)
    else:
        raise UsageError(f"{path}: a table is written as .csv or .parquet.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(path, content.getvalue())
    return path


def accuracies(runs: pd.DataFrame) -> list[str]:
    """Columns that say how good the features are downstream."""
    named = [name for name in runs.columns if ACCURACIES.search(name)]
    return [name for name in named if runs[name].dtype.kind in "if" and runs[name].notna().any()]


def read_table(path: Path) -> pd.DataFrame:
    """Any table, as it is.

    Raises:
        InputMissing: there is no such file.
        DataError: it is neither CSV nor Parquet.
    """
    if not path.is_file():
        raise InputMissing(f"There is no table at {path}.")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise DataError(f"{path} cannot be read as a table (.csv or .parquet): {error}") from None
    return table.reset_index(drop=True)

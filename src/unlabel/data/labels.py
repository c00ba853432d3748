"""Labels of items: from their folders, from a column of a table, or none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow import csv, parquet

from unlabel.data.sources import SPLITS, Item
from unlabel.errors import DataError, InputMissing, UsageError

PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "name", "id")
"""Columns taken for the images' names, in this order; else the first column."""


@dataclass(frozen=True)
class Labels:
    """Where labels come from: ``kind`` is "auto", "folders", "none" or "table"."""

    kind: str
    table: Path | None = None
    column: str = ""

    @classmethod
    def parse(cls, text: str) -> Labels:
        """Read ``auto``, ``folders``, ``none`` or ``FILE.csv:COLUMN`` (or Parquet).

        Raises:
            UsageError: it is none of these.
            InputMissing: the table is not there.
        """
        if text in ("auto", "folders", "none"):
            return cls(text)
        file, colon, column = text.rpartition(":")
        if not colon or Path(text).exists():
            file, column = text, "label"
        path = Path(file)
        if path.suffix not in (".csv", ".parquet"):
            raise UsageError(
                f"--labels {text}: give auto, folders, none, or FILE.csv:COLUMN (or FILE.parquet)."
            )
        if not path.is_file():
            raise InputMissing(f"--labels: there is no table at {path}.")
        return cls("table", path, column)


def apply_labels(items: list[Item], labels: Labels) -> tuple[list[Item], tuple[str, ...]]:
    """Give each item its label; the classes are their names in order.

    With "auto", folders count as labels when every image stands in one and there are at least two.

    Raises:
        DataError: a table has not the column, or names none of the images.
    """
    if labels.kind == "table":
        items = _join(items, labels)
    elif labels.kind == "none" or (labels.kind == "auto" and not _all_labelled(items)):
        items = [replace(item, label=None) for item in items]
    return items, _ordered({item.label for item in items if item.label is not None})


def _all_labelled(items: list[Item]) -> bool:
    found = {item.label for item in items}
    return None not in found and len(found) > 1


def _ordered(classes: set[str]) -> tuple[str, ...]:
    """Class names in order; numbers by their value."""
    numeric = all(name.lstrip("-").isdigit() for name in classes)
    return tuple(sorted(classes, key=(lambda name: int(name)) if numeric else None))


def _join(items: list[Item], labels: Labels) -> list[Item]:
    table = _read(labels)
    if labels.column not in table.column_names:
        raise DataError(
            f"{labels.table} has no column {labels.column!r}; it has: "
            f"{', '.join(table.column_names)}. Write --labels {labels.table}:COLUMN."
        )
    key = next((n for n in PATH_COLUMNS if n in table.column_names), table.column_names[0])
    names = [str(value) for value in table[key].to_pylist()]
    values = table[labels.column].to_pylist()
    splits = table["split"].to_pylist() if "split" in table.column_names else [None] * len(names)
    rows = dict(zip(names, zip(values, splits, strict=True), strict=True))
    joined = [_labelled(item, rows) for item in items]
    if all(item.label is None for item in joined):
        raise DataError(
            f"No image is named in column {key!r} of {labels.table}: it has {names[:3]}, the "
            f"images are {[item.name for item in items[:3]]}."
        )
    return joined


def _read(labels: Labels) -> pa.Table:
    try:
        if labels.table and labels.table.suffix == ".parquet":
            return parquet.read_table(labels.table)
        return csv.read_csv(labels.table)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{labels.table} cannot be read as a table: {error}") from None


def _labelled(item: Item, rows: dict[str, tuple]) -> Item:
    """The item with the label of its full name, or of its file name, with or without suffix."""
    path = PurePosixPath(item.name)
    for name in (item.name, path.name, path.stem):
        if name in rows:
            value, split = rows[name]
            known = item.split if split is None else SPLITS.get(str(split).lower(), str(split))
            return replace(item, label=None if value is None else str(value), split=known)
    return replace(item, label=None)

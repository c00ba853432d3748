"""Labels of items: from their folders, from a column of a table, or none."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow import parquet

from unlabel.data.items import Item, known_split, printable
from unlabel.errors import DataError, InputMissing, UsageError

PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "name", "id")
"""Columns taken for the images' names, in this order; else the first column."""
SPLIT_COLUMN = "split"

Columns = dict[str, list[str | None]]


@dataclass(frozen=True)
class Labels:
    """Where labels come from: ``kind`` is "auto", "folders", "none" or "table"."""

    kind: str
    table: Path = Path()
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
        if not colon or Path(text).is_file():
            file, column = text, "label"
        path = Path(file)
        if path.suffix.lower() not in (".csv", ".parquet"):
            raise UsageError(
                f"--labels {text}: give auto, folders, none, or FILE.csv:COLUMN (or FILE.parquet)."
            )
        if not path.is_file():
            raise InputMissing(f"--labels: there is no table at {path}.")
        return cls("table", path, column)


def apply_labels(items: list[Item], labels: Labels) -> tuple[list[Item], tuple[str, ...]]:
    """Give each item its label; the classes are their names in order.

    With "auto", folders (and what shards say) count as labels where every image has one, there are
    at least two of them, and they repeat: captions and a folder for each image are no classes.

    Raises:
        DataError: a table cannot be read, has not the column, or names none of the images.
    """
    if labels.kind == "table":
        items = _join(items, labels)
    elif labels.kind == "none" or (labels.kind == "auto" and not _all_labelled(items)):
        items = [replace(item, label=None) for item in items]
    return items, _ordered({item.label for item in items if item.label is not None})


def _all_labelled(items: list[Item]) -> bool:
    found = {item.label for item in items}
    return None not in found and 1 < len(found) <= len(items) / 2


def _ordered(classes: set[str]) -> tuple[str, ...]:
    """Class names in order; whole numbers by their value."""
    try:
        return tuple(sorted(classes, key=lambda name: (int(name), name)))
    except ValueError:
        return tuple(sorted(classes))


def _join(items: list[Item], labels: Labels) -> list[Item]:
    columns = _read(labels.table)
    if labels.column not in columns:
        raise DataError(
            f"{labels.table} has no column {labels.column!r}; it has: {', '.join(columns)}. "
            f"Write --labels {labels.table}:COLUMN."
        )
    key = next((name for name in PATH_COLUMNS if name in columns), next(iter(columns)))
    names, values = columns[key], columns[labels.column]
    splits = columns.get(SPLIT_COLUMN, [None] * len(names))
    rows = {
        printable(name): (value, split)
        for name, value, split in zip(names, values, splits, strict=True)
        if name is not None
    }
    found = [_row(item.name, rows) for item in items]
    if all(row is None for row in found):
        raise DataError(
            f"No image is named in column {key!r} of {labels.table}: it has {names[:3]}, the "
            f"images are {[item.name for item in items[:3]]}."
        )
    return [_labelled(item, row) for item, row in zip(items, found, strict=True)]


def _read(table: Path) -> Columns:
    """The table's columns as text, as it stands: "007" stays so; what is empty is ``None``."""
    try:
        if table.suffix.lower() == ".parquet":
            read = parquet.read_table(table).to_pydict()
            return {n: [None if v is None else str(v) for v in c] for n, c in read.items()}
        with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            header, *rows = [row for row in csv.reader(file) if row]
        cells = [[cell or None for cell in row] for row in rows]
        return dict(zip(header, map(list, zip(*cells, strict=True)), strict=True))
    except (pa.ArrowException, OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"{table} cannot be read as a table with a header and rows of one length: {error}"
        ) from None


def _row(name: str, rows: dict[str, tuple[str | None, str | None]]) -> tuple | None:
    return next((rows[key] for key in _keys(name) if key in rows), None)


def _keys(name: str) -> Iterator[str]:
    """What a table may call an image: its path from ever deeper folders, or its bare name."""
    parts = name.split("/")
    for start in range(len(parts)):
        yield "/".join(parts[start:])
    yield PurePosixPath(name).stem


def _labelled(item: Item, row: tuple[str | None, str | None] | None) -> Item:
    if row is None:
        return replace(item, label=None)
    value, split = row
    return replace(item, label=value, split=item.split if split is None else known_split(split))

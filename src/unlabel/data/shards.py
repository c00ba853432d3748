"""Tar shards in WebDataset form: members are read where they stand, nothing is ever extracted."""

from __future__ import annotations

import json
import posixpath
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlabel.data.items import FileReader, Item, Listing, printable

LABELS = {"cls": 1000, "json": 2**16, "txt": 1000}
"""Endings of the files that give an image its label, which goes before which, and the largest size
in bytes that one is looked at."""
FIELDS = ("label", "cls", "class", "class_name")
"""Fields of a ``KEY.json`` that are its label: the first that holds a text or a whole number."""

Labels = dict[tuple[str, str], str]


def list_shard(path: Path) -> Listing:
    """List an uncompressed tar: ``KEY.jpg`` with, where it is there, its label.

    That stands in ``KEY.cls``, in a field of ``KEY.json`` (see `FIELDS`) or in ``KEY.txt``.
    """
    items: list[tuple[str, Item]] = []
    refused: list[tuple[str, str]] = []
    labels: Labels = {}
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                _list_member(path, member, items, labels, refused)
    # tarfile raises ValueError, EOFError and others on hostile headers.
    except Exception as error:
        refused.append((printable(path.name), f"damaged shard: {printable(str(error))[:100]}"))
    return Listing([replace(item, label=_label(labels, key)) for key, item in items], refused)


def _label(labels: Labels, key: str) -> str | None:
    return next((labels[key, ending] for ending in LABELS if (key, ending) in labels), None)


def _list_member(
    path: Path,
    member: tarfile.TarInfo,
    items: list[tuple[str, Item]],
    labels: Labels,
    refused: list[tuple[str, str]],
) -> None:
    name = printable(member.name)
    folder, base = posixpath.split(name)
    stem, _, ending = base.lower().partition(".")
    key = posixpath.join(folder, stem)
    if member.isdir() or base.startswith("."):
        return
    if not member.isreg() or member.issparse():
        refused.append((name, "not a plain file in the shard"))
        return
    reader = FileReader(str(path), member.offset_data, member.size)
    if ending not in LABELS:
        items.append((key, Item(name, reader)))
    elif member.size <= LABELS[ending]:
        text = reader.read().decode("utf-8", "backslashreplace").strip()
        try:
            label = _field(json.loads(text)) if ending == "json" else text
        except (ValueError, RecursionError):
            refused.append((name, "no JSON, so its image has no label"))
            return
        if label is not None:
            labels[key, ending] = label


def _field(values: Any) -> str | None:
    """The label among the fields of a JSON object, as text."""
    found = [values.get(name) for name in FIELDS] if isinstance(values, dict) else []
    usable = (v for v in found if isinstance(v, str | int) and not isinstance(v, bool))
    first = next((str(value) for value in usable), None)
    return None if first is None else first.encode("utf-8", "backslashreplace").decode()

"""Tar shards in WebDataset form: members are read where they stand, nothing is ever extracted."""

from __future__ import annotations

import posixpath
import tarfile
from dataclasses import replace
from pathlib import Path

from unlabel.data.items import FileReader, Item, Listing, printable

_LABELS = ("cls", "txt")
_SIDECARS = ("json", "cls", "txt")
_LABEL_BYTES = 1000


def list_shard(path: Path) -> Listing:
    """List an uncompressed tar: ``KEY.jpg`` with, where they are there, labels in ``KEY.cls``."""
    items: list[tuple[str, Item]] = []
    refused: list[tuple[str, str]] = []
    labels: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                _list_member(path, member, items, labels, refused)
    # tarfile raises ValueError, EOFError and others on hostile headers.
    except Exception as error:
        refused.append((printable(path.name), f"damaged shard: {printable(str(error))[:100]}"))
    return Listing([replace(item, label=labels.get(key)) for key, item in items], refused)


def _list_member(
    path: Path,
    member: tarfile.TarInfo,
    items: list[tuple[str, Item]],
    labels: dict[str, str],
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
    elif ending in _LABELS and member.size <= _LABEL_BYTES:
        data = FileReader(str(path), member.offset_data, member.size).read()
        labels[key] = data.decode("utf-8", "backslashreplace").strip()
    elif ending in _SIDECARS:
        return
    else:
        items.append((key, Item(name, FileReader(str(path), member.offset_data, member.size))))

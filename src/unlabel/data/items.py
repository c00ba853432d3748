"""Items: one image to be each, with how any process reads it by itself."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from unlabel.data.pixels import Refused

LARGEST_FILE = 2**30
"""Bytes of one image's file, at most."""
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""Names, in lower case, that are splits and not classes."""


class Reader(Protocol):
    """Reads one item: bytes to decode, or pixels as an array."""

    def read(self) -> bytes | np.ndarray:
        """The content.

        Raises:
            Refused: it cannot be read; the message is the reason.
        """


@dataclass(frozen=True)
class Item:
    """One image to be: its name in its source, how to read it, its label and split, if any."""

    name: str
    reader: Reader
    label: str | None = None
    split: str = ""


@dataclass(frozen=True)
class Listing:
    """What a source holds, and what was refused before reading it (name, reason)."""

    items: list[Item]
    refused: list[tuple[str, str]]


@dataclass(frozen=True)
class FileReader:
    """A file, or a stretch of one: a member of a tar shard is read in place, never extracted."""

    path: str
    offset: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """The file's bytes."""
        try:
            size = os.stat(self.path).st_size if self.size is None else self.size
            if size > LARGEST_FILE:
                raise Refused(f"too large: a file of over {LARGEST_FILE >> 20} MiB")
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                data = file.read(size)
        except OSError as error:
            raise Refused(f"unreadable: {error.strerror}") from None
        if self.size is not None and len(data) < size:
            raise Refused("truncated: the shard ends within it")
        return data


def printable(name: str) -> str:
    """A name that any text file takes: bytes that are no UTF-8 are written as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def known_split(name: str) -> str:
    """A split by its usual name."""
    return SPLITS.get(name.lower(), name)

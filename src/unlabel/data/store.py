"""The store: every image once, verified and upright, memory-mapped, with labels and names.

A store is a folder of Arrow files (``part-00000.arrow``, ...), ``store.json`` (what is known of
the whole) and ``manifest.json`` (written last: without it the folder is no store). Arrow is what
Hugging Face ``datasets`` reads as well: ``Dataset.from_file("part-00000.arrow")``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

from unlabel.data.blobs import Blobs, open_part
from unlabel.data.layers import INFO as LAYER_INFO
from unlabel.data.layers import MAKE, Layer
from unlabel.data.random import keys, uniform
from unlabel.errors import DataError, InputMissing

INFO, MANIFEST = "store.json", "manifest.json"
RAW, JPEG, PNG = 0, 1, 2
"""How an image is stored: its pixels, or compressed."""


@dataclass(frozen=True)
class StoreInfo:
    """What is known of a whole store.

    ``mean`` and ``std`` are of pixels in [0, 1], a value a channel, measured on a sample; floats
    are measured as they are. ``min_side`` and ``median_side`` are of the shorter side, in pixels.
    """

    images: int
    classes: tuple[str, ...]
    splits: dict[str, int]
    channels: int
    dtype: str
    min_side: int
    median_side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in ``store.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StoreInfo:
        """The inverse of ``as_dict``."""
        tuples = {name: tuple(values[name]) for name in ("classes", "mean", "std")}
        return cls(**{**values, **tuples})


class Store:
    """A store, or a view of some of its rows; views share the files.

    Attributes:
        path: the folder.
        info: of the whole store.
        rows: int64 (n,), this view's rows in the whole store. A row is an image's stable id.
    """

    def __init__(self, path: Path, info: StoreInfo, rows: np.ndarray | None = None) -> None:
        self.path = Path(path)
        self.info = info
        self.rows = np.arange(info.images, dtype=np.int64) if rows is None else rows

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.path, self.info, None if self._is_whole else self.rows)

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a complete store.

        Raises:
            InputMissing: there is nothing at ``path``.
            DataError: it is no store, or one that was never finished or has changed since.
        """
        path = Path(path)
        if not path.exists():
            raise InputMissing(
                f"There is no store at {path}. Make it: unlabel ingest IMAGES --out {path}"
            )
        if not (path / MANIFEST).is_file():
            raise DataError(
                f"{path} is not a finished store: it has no {MANIFEST}. "
                f"Make one of your images: unlabel ingest IMAGES --out NEW_FOLDER"
            )
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            wrong = _changed(path, manifest["sizes"])
            info = StoreInfo.from_dict(json.loads((path / INFO).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} is not a store that can be read ({error}). "
                "Name a store that unlabel ingest made, or ingest the images anew."
            ) from None
        if wrong:
            raise DataError(
                f"{path / wrong} is not as ingest wrote it. Ingest the images anew: "
                f"unlabel ingest IMAGES --out {path} --overwrite"
            )
        return cls(path, info)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def _is_whole(self) -> bool:
        """Whether the view has every row, in order."""
        return np.array_equal(self.rows, np.arange(self.info.images))

    @property
    def ids(self) -> np.ndarray:
        """int64 (n,): each image's row in the whole store."""
        return self.rows

    def image(self, index: int, shrink: int = 1) -> np.ndarray:
        """Pixels (H, W, C) of image ``index`` of this view; the array may be read-only.

        Args:
            index: from 0 to ``len(self) - 1``.
            shrink: 1, 2, 4 or 8: a JPEG is decoded at that fraction of its size (rounded up),
                which is faster. Other images come whole: look at the shape. See `reduction`.
        """
        row = int(self.rows[index])
        files = self.files
        data, kind = files.images[row], files.kinds[row]
        height, width = (int(side) for side in files.sizes[row])
        if kind == RAW:
            shape = (height, width, self.info.channels)
            return np.frombuffer(data, self.info.dtype).reshape(shape)
        if kind == JPEG:
            return simplejpeg.decode_jpeg(
                data, min_height=-(-height // shrink), min_width=-(-width // shrink)
            )
        return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB))

    @cached_property
    def sizes(self) -> np.ndarray:
        """int32 (n, 2): height and width in pixels."""
        return self.files.sizes[self.rows]

    @cached_property
    def labels(self) -> np.ndarray | None:
        """int64 (n,), positions in ``info.classes``; -1 for no label; ``None`` if none has one."""
        if not self.info.classes:
            return None
        return self.files.column("label")[self.rows]

    @cached_property
    def splits(self) -> np.ndarray | None:
        """The split that each image came in: "train", "validation", "test", or "" for none."""
        if not self.info.splits:
            return None
        return np.asarray(self.files.values("split"))[self.rows]

    def names(self) -> list[str]:
        """Where each image came from, relative to its source."""
        names = self.files.values("name")
        return [names[row] for row in self.rows]

    def column(self, name: str) -> np.ndarray:
        """A column of fixed-width values ("hash", "label", ...) for this view's rows."""
        return self.files.column(name)[self.rows]

    def select(self, indices: np.ndarray) -> Store:
        """A view of these images, by their positions in this view or a boolean mask."""
        return Store(self.path, self.info, self.rows[indices])

    def split(self, name: str) -> Store:
        """A view of the images of one split.

        Raises:
            DataError: the store has no such split.
        """
        if self.splits is None or not (found := self.splits == name).any():
            has = ", ".join(self.info.splits) or "none"
            raise DataError(f"{self.path} has no split {name!r}; it has: {has}.")
        return self.select(found)

    def fraction(self, share: float, seed: int) -> Store:
        """A view of a share of the images, stratified by label where there are labels.

        Smaller shares of one seed are contained in larger ones.
        """
        place = _place_in_class(_hash(self.rows, seed), self.labels)
        return self.select(place < share)

    def holdout(self, share: float, most: int, seed: int) -> tuple[Store, Store]:
        """Two views: the rest, and ``share`` of the images (at least 1, at most ``most``).

        Which are held out depends on each image's row and the seed alone.
        """
        count = held_out_count(len(self), share, most)
        held = np.zeros(len(self), bool)
        held[np.argsort(_hash(self.rows, seed), kind="stable")[:count]] = True
        return self.select(~held), self.select(held)

    @property
    def fingerprint(self) -> str:
        """Hash of this view's images: the store's own and the rows."""
        if self._is_whole:
            return self.info.fingerprint
        rows = hashlib.sha256(np.ascontiguousarray(self.rows).tobytes()).hexdigest()
        return hashlib.sha256((self.info.fingerprint + rows).encode()).hexdigest()[:16]

    @property
    def layers(self) -> frozenset[str]:
        """The layers that are there: "foreground", "segments"."""
        return frozenset(name for name in MAKE if (self.path / name / LAYER_INFO).is_file())

    def layer(self, name: str) -> Layer:
        """The masks that stand beside the images, by their rows in the whole store (``ids``).

        Raises:
            ConfigError: the store has no such layer; the message says how to make it.
            DataError: the layer is damaged, or belongs to other images.
        """
        return Layer.open(self.path, name, self.info.fingerprint)

    @cached_property
    def files(self) -> StoreFiles:
        """The files behind the rows, opened on first use by each process for itself."""
        return StoreFiles(self.path)


def reduction(spare: np.ndarray) -> np.ndarray:
    """How much smaller (1, 2, 4 or 8) to decode images of ``spare`` times the side they need."""
    return np.exp2(np.floor(np.log2(np.clip(spare, 1, 8)))).astype(np.int64)


def _changed(path: Path, sizes: dict[str, int]) -> str | None:
    """The first file that is missing, of another size, or one too many."""
    for name, size in sizes.items():
        file = path / Path(name).name
        if not file.is_file() or file.stat().st_size != size:
            return name
    return next((part.name for part in path.glob("part-*.arrow") if part.name not in sizes), None)


class StoreFiles:
    """The memory-mapped parts of a whole store; ``images`` are the stored bytes of each row."""

    def __init__(self, path: Path) -> None:
        self.paths = sorted(path.glob("part-*.arrow"))
        self.tables = [open_part(part) for part in self.paths]
        self.images = Blobs(self.tables, "image")
        self.sizes = np.stack([self.column("height"), self.column("width")], axis=1)
        self.kinds = self.column("kind")

    def __len__(self) -> int:
        return len(self.kinds)

    def column(self, name: str) -> np.ndarray:
        """A column of numbers, of all rows."""
        return np.concatenate([table.column(name).to_numpy() for table in self.tables])

    def values(self, name: str) -> list[Any]:
        """A column of strings or bytes, of all rows."""
        return [value for table in self.tables for value in table.column(name).to_pylist()]


def _hash(rows: np.ndarray, seed: int) -> np.ndarray:
    """A uniform draw in [0, 1) for each row, by the seed."""
    return uniform(keys(seed, "store", np.zeros_like(rows), rows), 1)[:, 0]


def _place_in_class(draws: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """Each image's place among those of its class by its draw, as a share in [0, 1)."""
    labels = np.zeros(len(draws), np.int64) if labels is None else labels
    place = np.empty(len(draws))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        drawn = np.argsort(draws[members], kind="stable")
        place[members[drawn]] = np.arange(len(members)) / len(members)
    return place


def held_out_count(images: int, share: float, most: int) -> int:
    """How many of so many images `Store.holdout` takes: at least 1, at most ``most``."""
    return min(max(round(share * images), 1), most)

"""Layers of a store: one small mask an image, beside the images and without touching them.

A layer is a folder within the store (``foreground`` or ``segments``) of Arrow files, whose column
``mask`` holds a grey PNG an image, and ``layer.json``. It is written aside and gets its name last,
so a layer is whole or not there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unlabel.data.blobs import Blobs, open_part
from unlabel.errors import ConfigError, DataError

INFO = "layer.json"
PAGE = "saliency.html"
"""Name of the page that shows a store's layers."""
MAKE = {
    "foreground": "unlabel saliency {store} --kind background",
    "segments": "unlabel saliency {store} --segments felzenszwalb",
}
"""The layers that there are, and how each is made."""
SAMPLES = 4
"""Places a side at which a cell of a grid of segments is looked at."""


@dataclass(frozen=True)
class LayerInfo:
    """What is known of a layer.

    Attributes:
        kind: how its masks were made.
        options: with what; fit for JSON.
        images: rows, those of the whole store.
        empty: how many of them have no mask.
        store: fingerprint of the store's images.
        fingerprint: hash of the masks.
        sizes: bytes of each of its files.
    """

    kind: str
    options: dict[str, Any]
    images: int
    empty: int
    store: str
    fingerprint: str
    sizes: dict[str, int]

    def as_json(self) -> str:
        """As in ``layer.json``."""
        return json.dumps(asdict(self), indent=2) + "\n"


class Layer:
    """The masks of a store's images: ``foreground`` is 0 or 255, ``segments`` are ids from 0."""

    def __init__(self, path: Path, info: LayerInfo) -> None:
        self.path = path
        self.info = info

    def __reduce__(self) -> tuple[Any, ...]:
        return Layer, (self.path, self.info)

    @classmethod
    def open(cls, store: Path, name: str, fingerprint: str) -> Layer:
        """Open the layer ``name`` of the store whose images have this ``fingerprint``.

        Raises:
            ConfigError: the store has no such layer.
            DataError: the layer is damaged, or belongs to other images.
        """
        path = store / name
        anew = MAKE[name].format(store=store)
        if not (path / INFO).is_file():
            raise ConfigError(f"{store} has no layer {name!r}. Make it: {anew}")
        try:
            info = LayerInfo(**json.loads((path / INFO).read_text(encoding="utf-8")))
            whole = all((path / part).stat().st_size == n for part, n in info.sizes.items())
        except (OSError, ValueError, TypeError, AttributeError):
            whole = False
        if not whole or info.store != fingerprint:
            why = "belongs to other images" if whole else "is not as it was written"
            raise DataError(f"The layer {path} {why}. Make it anew: {anew} --overwrite")
        return cls(path, info)

    def mask(self, row: int) -> np.ndarray | None:
        """The mask of the image in ``row`` of the whole store.

        Returns:
            uint8 (h, w) over the whole image, often smaller than it; ``None`` where there is none.
        """
        data = self._masks[row]
        if not len(data):
            return None
        return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE))

    @cached_property
    def _masks(self) -> Blobs:
        """Opened on first use by each process for itself."""
        return Blobs([open_part(self.path / part) for part in sorted(self.info.sizes)], "mask")


def is_layer_file(name: str) -> bool:
    """Whether a layer, one that is being written, or their page has this name in a store."""
    return name == PAGE or name.partition(".")[0] in MAKE


def cut_mask(
    mask: np.ndarray, box: np.ndarray, flip: bool, image: np.ndarray, side: int
) -> np.ndarray:
    """The values of a mask at the pixels of a crop; the nearest, so ids stay ids.

    Args:
        mask: (h, w), over the whole image.
        box: top, left, height and width of the crop, in pixels of the image.
        flip: whether the crop is mirrored left to right.
        image: height and width of the image.
        side: of the square result, whose cells lie evenly over the box.

    Returns:
        (side, side), the values at the middles of the cells.
    """
    middles = (np.arange(side) + 0.5) / side
    y, x = (
        ((box[axis] + middles * box[axis + 2]) * (mask.shape[axis] / image[axis])).astype(np.intp)
        for axis in (0, 1)
    )
    return mask[y[:, None], x[::-1] if flip else x]


def cut_segments(
    mask: np.ndarray, box: np.ndarray, flip: bool, image: np.ndarray, side: int
) -> np.ndarray:
    """The id that fills most of each cell, as DetCon's pooled one-hot masks give it.

    Arguments are those of ``cut_mask``; each cell is looked at in ``SAMPLES`` by ``SAMPLES``
    places. Of ids with equally many the lowest is taken.
    """
    fine = cut_mask(mask, box, flip, image, side * SAMPLES)
    cells = fine.reshape(side, SAMPLES, side, SAMPLES).swapaxes(1, 2).reshape(side * side, -1)
    ids = int(cells.max()) + 1
    places = cells + np.arange(side * side)[:, None] * ids
    votes = np.bincount(places.ravel(), minlength=side * side * ids).reshape(-1, ids)
    return votes.argmax(axis=1).reshape(side, side).astype(np.uint8)

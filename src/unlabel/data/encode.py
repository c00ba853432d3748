"""One item to one row of a store: read, checked, shrunk, and written near its size of use."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import simplejpeg

from unlabel.data.decode import decode
from unlabel.data.duplicates import THUMBNAIL, sketch
from unlabel.data.items import Item
from unlabel.data.pixels import Decoded, Refused, as_image, shrunk
from unlabel.data.store import JPEG, PNG, RAW

RAW_SIDE = 64
"""Shorter side up to which pixels are stored as they are: faster to read than to decompress."""
QUALITY = 95
"""Of JPEGs written for images that were shrunk, with full colour resolution."""

SCHEMA = pa.schema(
    {
        "image": pa.large_binary(),
        "kind": pa.uint8(),
        "height": pa.int32(),
        "width": pa.int32(),
        "label": pa.int64(),
        "split": pa.string(),
        "name": pa.string(),
        "hash": pa.uint64(),
        "sketch": pa.uint64(),
        "thumbnail": pa.binary(THUMBNAIL**2),
        "moments": pa.list_(pa.float64()),
    }
)
"""``moments`` are an image's pixel count, sum and sum of squares, a value a channel each."""


@dataclass(frozen=True)
class Plan:
    """How every item is treated; changing any of it starts an ingest anew.

    ``channels`` and ``dtype`` are the kind of image that the store holds.
    """

    short_side: int | None
    megapixels: float
    channels: int
    dtype: str
    classes: tuple[str, ...]


def read(item: Item, megapixels: float) -> Decoded:
    """An item's pixels.

    Raises:
        Refused: it cannot be read or used.
    """
    content = item.reader.read()
    if isinstance(content, np.ndarray):
        return as_image(content, megapixels)
    return decode(content, megapixels)


class Encoder:
    """Turns items into rows by one plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.position = {name: i for i, name in enumerate(plan.classes)}

    def row(self, item: Item, found: Decoded) -> dict[str, Any]:
        """The row of one decoded item.

        Raises:
            Refused: it is not of the store's kind.
        """
        pixels = found.pixels
        if (pixels.shape[2], str(pixels.dtype)) != (self.plan.channels, self.plan.dtype):
            raise Refused(
                f"of another kind: {pixels.shape[2]} x {pixels.dtype} among images of "
                f"{self.plan.channels} x {self.plan.dtype}"
            )
        mark, thumbnail = sketch(pixels)
        content = hashlib.sha256(repr(pixels.shape).encode())
        content.update(pixels.data)
        kind, data, pixels = self._encode(found)
        return {
            "image": data,
            "kind": kind,
            "height": pixels.shape[0],
            "width": pixels.shape[1],
            "label": -1 if item.label is None else self.position[item.label],
            "split": item.split,
            "name": item.name,
            "hash": int.from_bytes(content.digest()[:8], "big"),
            "sketch": mark,
            "thumbnail": thumbnail.tobytes(),
            "moments": moments(pixels),
        }

    def _encode(self, found: Decoded) -> tuple[int, bytes, np.ndarray]:
        """Bytes to store: what is small, or not a photograph, without loss."""
        pixels = shrink(found.pixels, self.plan.short_side)
        if pixels.dtype != np.uint8 or pixels.shape[2] != 3 or min(pixels.shape[:2]) <= RAW_SIDE:
            return RAW, pixels.tobytes(), pixels
        if pixels is not found.pixels:
            data = simplejpeg.encode_jpeg(pixels, quality=QUALITY, colorsubsampling="444")
            return JPEG, data, pixels
        if found.jpeg is not None:
            return JPEG, found.jpeg, pixels
        turned = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode(".png", turned, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        return PNG, encoded.tobytes(), pixels


def shrink(pixels: np.ndarray, short_side: int | None) -> np.ndarray:
    """Pixels (H, W, C) with a shorter side of at most ``short_side``; the same array if it is."""
    height, width = pixels.shape[:2]
    if short_side is None or min(height, width) <= short_side:
        return pixels
    scale = short_side / min(height, width)
    return shrunk(pixels, max(1, round(height * scale)), max(1, round(width * scale)))


def moments(pixels: np.ndarray) -> np.ndarray:
    """Count, sum and sum of squares of the pixels (H, W, C), thinned out where there are many.

    Integers count as shares of their largest value.

    Returns:
        float64 (3 * C,).
    """
    step = max(1, min(pixels.shape[:2]) // 64)
    values = pixels[::step, ::step].reshape(-1, pixels.shape[2]).astype(np.float64)
    if pixels.dtype != np.float32:
        values /= np.iinfo(pixels.dtype).max
    return np.concatenate(
        [np.full(values.shape[1], len(values)), values.sum(0), (values**2).sum(0)]
    )

"""Pixels as a store takes them, and the refusal of those that it does not take."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

KINDS = {np.dtype(t) for t in ("uint8", "uint16", "float32")}
MEGAPIXELS = 64.0
"""Largest image that is decoded, in millions of pixels, unless told otherwise."""
LONGEST = 65_535
"""Longest side in pixels."""
BANDS = 16
"""Channels up to which a leading axis is taken for channels."""

_TO_FLOAT = {
    np.dtype(t)
    for t in ("int8", "int16", "int32", "uint32", "int64", "uint64", "float16", "float64")
}


class Refused(Exception):
    """An image that cannot be used; the message is the reason, without the image's name."""


@dataclass(frozen=True)
class Decoded:
    """An image as it will be used.

    Attributes:
        pixels: (H, W, C), uint8, uint16 or float32.
        note: what was changed or left out in decoding, or "".
        jpeg: the file itself, where it is a JPEG that needs no turning or conversion.
    """

    pixels: np.ndarray
    note: str = ""
    jpeg: bytes | None = None


def as_image(array: np.ndarray, megapixels: float = MEGAPIXELS) -> Decoded:
    """Pixels that come as an array: (H, W) or (H, W, C), or (C, H, W) with few channels first.

    Raises:
        Refused: not an image's shape or type, too large, or not finite.
    """
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or 0 in array.shape:
        raise Refused(f"not an image: an array of shape {array.shape}")
    notes = []
    if array.shape[0] <= BANDS < array.shape[2]:
        array = array.transpose(1, 2, 0)
        notes.append("channels moved last")
    check_size(array.shape[1], array.shape[0], megapixels, array.shape[2])
    kind = array.dtype.newbyteorder("=")
    if kind == np.dtype("bool"):
        array = array.astype(np.uint8) * 255
    elif kind in _TO_FLOAT:
        notes.append(f"{kind} stored as float32")
        with np.errstate(over="ignore"):  # what overflows is refused below
            array = array.astype(np.float32)
    elif kind in KINDS:
        array = array.astype(kind, copy=False)
    else:
        raise Refused(f"pixels of an unusable type: {kind}")
    if array.dtype == np.float32 and not np.isfinite(array).all():
        raise Refused("pixels that are not finite")
    if array.dtype == np.uint8 and array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return Decoded(np.ascontiguousarray(array), ", ".join(notes))


def check_size(width: int, height: int, megapixels: float, channels: int = 1) -> None:
    """Refuse what would take too much memory, by its header alone; many channels count more."""
    if width < 1 or height < 1:
        raise Refused("not an image: no pixels")
    size = width * height * max(1.0, channels / 4)
    if size > megapixels * 1e6 or max(width, height) > LONGEST:
        what = f"{width} x {height}" + (f" x {channels}" if channels > 4 else "")
        raise Refused(f"too large: {what} pixels, over {megapixels:g} megapixels")


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (H, W, C) as they should be seen; orientations as in EXIF 2.3, tag 274."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def shrunk(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels (H, W, C) averaged down to (height, width, C), any number of channels."""
    parts = [
        cv2.resize(pixels[:, :, at : at + 4], (width, height), interpolation=cv2.INTER_AREA)
        for at in range(0, pixels.shape[2], 4)  # OpenCV averages at most four at once
    ]
    return np.concatenate([part.reshape(height, width, -1) for part in parts], axis=2)

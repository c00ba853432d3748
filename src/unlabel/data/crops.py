"""Random resized crops: boxes drawn for a batch at once, pixels cut one image at a time."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from unlabel.data.random import uniform
from unlabel.data.spec import Crops

TRIES = 10
"""Boxes that are tried before the central one is taken, as torchvision does."""


def draw_boxes(crops: Crops, sizes: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw one crop an image, by torchvision's rule for ``RandomResizedCrop``.

    Args:
        crops: shares of the area, aspect ratios and the probability of a flip.
        sizes: int (B, 2), heights and widths in pixels.
        key: uint64 (B,), from ``random.keys``.

    Returns:
        int64 (B, 4), top, left, height and width; and bool (B,), whether to flip.
    """
    draws = uniform(key, 4 * TRIES + 1)
    flips = draws[:, -1] < crops.flip
    share, ratio, y, x = np.moveaxis(draws[:, :-1].reshape(len(key), TRIES, 4), 2, 0)
    full_height, full_width = sizes[:, :1].astype(np.float64), sizes[:, 1:].astype(np.float64)
    low, high = crops.scale
    area = full_height * full_width * (low + share * (high - low))
    low, high = np.log(crops.ratio)
    aspect = np.exp(low + ratio * (high - low))
    width, height = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (width >= 1) & (height >= 1) & (width <= full_width) & (height <= full_height)
    first = np.argmax(fits, axis=1)
    rows = np.arange(len(key))
    height, width = height[rows, first], width[rows, first]
    top = np.floor(y[rows, first] * (full_height[:, 0] - height + 1))
    left = np.floor(x[rows, first] * (full_width[:, 0] - width + 1))
    boxes = np.stack([top, left, height, width], axis=1)
    boxes = np.where(fits.any(axis=1)[:, None], boxes, _central(crops, sizes))
    return boxes.astype(np.int64), flips


def _central(crops: Crops, sizes: np.ndarray) -> np.ndarray:
    """The largest central box with an allowed aspect ratio: float (B, 4)."""
    height, width = sizes[:, 0].astype(np.float64), sizes[:, 1].astype(np.float64)
    low, high = crops.ratio
    box_height = np.where(width / height < low, np.rint(width / low), height)
    box_width = np.where(width / height > high, np.rint(height * high), width)
    top, left = np.floor((height - box_height) / 2), np.floor((width - box_width) / 2)
    return np.stack([top, left, box_height, box_width], axis=1)


def cut(
    pixels: np.ndarray, box: np.ndarray, flip: bool, size: int, interpolation: str, out: np.ndarray
) -> None:
    """Cut a box, resize it to a square and write it into ``out``.

    Shrinking is antialiased, as Pillow and torchvision do it.

    Args:
        pixels: (H, W, C), uint8, uint16 or float32.
        box: top, left, height and width in pixels.
        flip: whether to mirror it left to right.
        size: side in pixels.
        interpolation: "bilinear" or "bicubic".
        out: (size, size, C), contiguous, written to.
    """
    top, left, height, width = (int(value) for value in box)
    region = pixels[top : top + height, left : left + width]
    if (height, width) != (size, size):
        region = _resize(region, size, interpolation)
    if flip:
        cv2.flip(region, 1, dst=out)
    else:
        out[:] = region


def _resize(region: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """Pixels (h, w, C) to (size, size, C) of the same type."""
    kind = region.dtype
    if kind == np.uint16:
        region = region.astype(np.float32)
    elif not region.flags.writeable:
        region = region.copy()
    planes = torch.from_numpy(region).permute(2, 0, 1)[None]
    planes = F.interpolate(planes, (size, size), mode=interpolation, antialias=True)
    resized = planes[0].permute(1, 2, 0).numpy()
    return np.rint(resized).clip(0, 2**16 - 1).astype(kind) if kind == np.uint16 else resized

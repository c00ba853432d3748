"""Images as saliency looks at them: small, with three channels of 8 bits."""

from __future__ import annotations

import numpy as np

from unlabel.data.pixels import shrunk
from unlabel.data.store import Store, reduction

SIDE = 256
"""Longer side of images, and so of masks, in pixels."""


def small_rgb(store: Store, index: int, side: int = SIDE) -> np.ndarray:
    """Image ``index`` of a view, shrunk to a longer side of ``side``: uint8 (h, w, 3).

    Channels other than three become their mean, and pixels of other types are stretched from their
    least to their most.
    """
    size = mask_size(store.sizes[index], side)
    image = store.image(index, int(reduction(store.sizes[index].max() / side)))
    if image.shape[:2] != size:
        image = shrunk(image, *size)
    if image.shape[2] != 3:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    return image if image.dtype == np.uint8 else _stretched(image)


def mask_size(image: np.ndarray, side: int = SIDE) -> tuple[int, int]:
    """Height and width of an image, given its own, shrunk to a longer side of at most ``side``."""
    height, width = (int(length) for length in image)
    scale = min(1.0, side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _stretched(image: np.ndarray) -> np.ndarray:
    low, high = float(image.min()), float(image.max())
    unit = (image.astype(np.float64) - low) / (high - low if high > low else 1)
    return np.rint(unit * 255).astype(np.uint8)

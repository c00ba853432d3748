"""Crops without their background: which lose it, and what stands in its place."""

from __future__ import annotations

import cv2
import numpy as np

from unlabel.data.pixels import shrunk
from unlabel.data.random import uniform
from unlabel.data.spec import BackgroundRemoval
from unlabel.errors import ConfigError

BLUR = 0.1
"""Sigma of the ``blur`` fill over the crop's side."""
BLUR_SIDE = 32
"""Pixels a side that are enough for so strong a blur."""


def check_removal(group: str, removal: BackgroundRemoval, dtype: str) -> None:
    """Refuse a fill that makes no sense of these images.

    Raises:
        ConfigError: a random grey for floats, whose range nobody knows.
    """
    if removal.fill == "grey" and np.dtype(dtype).kind == "f":
        raise ConfigError(
            f"The views {group!r} fill backgrounds with a random grey, which needs pixels of a "
            f"known range; these are {dtype}. Choose the fill zero, mean or blur."
        )


def draw_removals(removal: BackgroundRemoval, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One view's coin and grey of each image: bool (B,), and float64 (B,) in [0, 1)."""
    draws = uniform(key, 2)
    return draws[:, 0] < removal.p, draws[:, 1]


def remove_background(
    pixels: np.ndarray, keep: np.ndarray, fill: str, mean: tuple[float, ...], grey: float
) -> None:
    """Replace the pixels that are not kept, in place; nothing where none is kept.

    Args:
        pixels: (S, S, C), uint8, uint16 or float32.
        keep: bool (S, S).
        fill: "zero", "mean", "grey" or "blur".
        mean: of the store's pixels, in [0, 1], a value a channel; of floats as they are.
        grey: level of the ``grey`` fill, in [0, 1].
    """
    if not keep.any():
        return
    if fill == "blur":
        np.copyto(pixels, _blurred(pixels), where=~keep[:, :, None])
        return
    level = np.array({"zero": 0.0, "mean": mean, "grey": grey}[fill])
    if pixels.dtype.kind != "f":
        level = np.rint(level * np.iinfo(pixels.dtype).max)
    pixels[~keep] = level


def _blurred(pixels: np.ndarray) -> np.ndarray:
    """A blurred copy, made of a small one: (S, S, C)."""
    side = min(len(pixels), BLUR_SIDE)
    small = shrunk(pixels, side, side)
    small = cv2.GaussianBlur(small, (0, 0), BLUR * side)
    return cv2.resize(small, pixels.shape[1::-1]).reshape(pixels.shape)

"""Colour recipes on a processor: one image after the other, while it is in the cache.

The same operators as ``augment.apply_colours``, by OpenCV, which is several times as fast there.
"""

from __future__ import annotations

import cv2
import numpy as np

from unlabel.data.augment import (
    BRIGHTNESS,
    CONTRAST,
    GREY,
    HUE,
    LUMA,
    ORDER,
    REFERENCE,
    SATURATION,
    SIGMA,
    SOLARIZE,
    blur_reach,
)
from unlabel.data.spec import Photometric

_LUMA = np.array([LUMA], np.float32)


def colour_pixels(pixels: np.ndarray, colours: np.ndarray, recipe: Photometric) -> np.ndarray:
    """Apply each image's own parameters.

    Args:
        pixels: (N, H, W, C), integers over their type's range, or floats in [0, 1].
        colours: (N, K), from ``draw_colours``.
        recipe: the one they were drawn by.

    Returns:
        float32 (N, H, W, C) in [0, 1], a new array.
    """
    painted = np.empty(pixels.shape, np.float32)
    most = np.float32(1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max)
    for image, drawn, out in zip(pixels, colours, painted, strict=True):
        np.divide(image, most, out=out)
        for kind in drawn[ORDER:GREY]:
            _jitter(out, int(kind), drawn, recipe)
        if drawn[GREY]:
            cv2.transform(out, np.repeat(_LUMA, 3, axis=0), dst=out)
        if drawn[SIGMA]:
            _blur(out, drawn[SIGMA] * len(out) / REFERENCE, blur_reach(recipe, len(out)))
        if drawn[SOLARIZE]:
            np.subtract(1, out, out=out, where=out >= np.float32(recipe.solarize_threshold))
    return painted


def _jitter(image: np.ndarray, kind: int, drawn: np.ndarray, recipe: Photometric) -> None:
    """One operator, in place; -1 is none."""
    if kind == BRIGHTNESS and recipe.additive_brightness:
        image += drawn[BRIGHTNESS]
    elif kind == BRIGHTNESS:
        image *= drawn[BRIGHTNESS]
    elif kind == CONTRAST:
        rgb = image.shape[2] == 3
        mean = _LUMA[0] @ cv2.mean(image)[:3] if rgb else image.mean(axis=(0, 1))
        image *= drawn[CONTRAST]
        image += ((1 - drawn[CONTRAST]) * mean).astype(np.float32)
    elif kind == SATURATION:
        amount = drawn[SATURATION]
        cv2.transform(image, amount * np.eye(3, dtype=np.float32) + (1 - amount) * _LUMA, dst=image)
    elif kind == HUE:
        cv2.cvtColor(image, cv2.COLOR_RGB2HSV, dst=image)
        image[:, :, 0] += 360 * (drawn[HUE] % 1)  # OpenCV wraps hues beyond 360, not below 0
        cv2.cvtColor(image, cv2.COLOR_HSV2RGB, dst=image)
    if kind in (BRIGHTNESS, CONTRAST, SATURATION):
        np.clip(image, 0, 1, out=image)


def _blur(image: np.ndarray, sigma: float, reach: int) -> None:
    at = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (at / sigma) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    smooth = cv2.sepFilter2D(image, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)
    image[:] = smooth.reshape(image.shape)

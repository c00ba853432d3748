"""From a saliency map to a mask that can be used, or to none."""

from __future__ import annotations

import cv2
import numpy as np

LEAST = 0.01
"""Share of the image below which a piece of foreground is dropped, and a mask is useless."""


def to_mask(saliency: np.ndarray, threshold: float | None) -> np.ndarray | None:
    """Cut a saliency map at a level and drop specks, as MaskContrast does.

    Args:
        saliency: (h, w), higher where the foreground is; its range does not matter.
        threshold: level between the map's least (0) and most (1); Otsu's where ``None``.

    Returns:
        uint8 (h, w), 0 or 255; ``None`` if the map is flat, or if less than 1 % or more than 99 %
        of it is foreground.
    """
    low, high = float(saliency.min()), float(saliency.max())
    if not high > low:
        return None
    unit = ((saliency - low) / (high - low)).astype(np.float32)
    mask = (unit > (_otsu(unit) if threshold is None else threshold)).astype(np.uint8)
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= LEAST * mask.size
    keep[0] = False
    mask = keep[pieces]
    return mask.astype(np.uint8) * 255 if LEAST <= mask.mean() <= 1 - LEAST else None


def _otsu(unit: np.ndarray) -> float:
    """Otsu's level (1979) of values in [0, 1]: it parts them with the least spread within."""
    level, _ = cv2.threshold(np.rint(unit * 255).astype(np.uint8), 0, 255, cv2.THRESH_OTSU)
    return (level + 0.5) / 255

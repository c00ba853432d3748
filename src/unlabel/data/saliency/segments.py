"""Segments by Felzenszwalb and Huttenlocher (2004), as DetCon uses them."""

from __future__ import annotations

import numpy as np
from skimage.segmentation import felzenszwalb

SCALE = 1000
"""Preference for large segments at ``REFERENCE`` (DetCon)."""
MIN_SIZE = 1000
"""Pixels of the smallest segment at ``REFERENCE`` (DetCon): at most 51 segments an image."""
REFERENCE = 224 * 224
"""Pixels of the image that these values are for; both grow and shrink with the image's area."""
SIGMA = 0.8
"""Of the blur before, in pixels (scikit-image's and DetCon's default)."""


def segments(image: np.ndarray) -> np.ndarray:
    """Ids of segments from 0: uint8 (h, w), for an image uint8 (h, w, 3)."""
    share = image.shape[0] * image.shape[1] / REFERENCE
    found = felzenszwalb(
        image, scale=SCALE * share**0.5, sigma=SIGMA, min_size=max(2, round(MIN_SIZE * share))
    )
    return found.astype(np.uint8)

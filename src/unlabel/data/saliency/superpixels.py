"""An image as a few hundred patches of one colour, and which of them touch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from skimage.color import rgb2lab
from skimage.segmentation import slic

COUNT = 250
"""Superpixels that are asked for; fewer where the image has too few pixels."""
FEWEST_PIXELS = 9
"""Of a superpixel, on average."""
COMPACTNESS = 20.0
"""Of SLIC: how much place counts against colour (as in the authors' code, from memory)."""


@dataclass(frozen=True)
class Superpixels:
    """N superpixels.

    Attributes:
        of: int (h, w), the superpixel of each pixel, from 0.
        colour: (N, 3), mean CIE-Lab.
        place: (N, 2), middle as row and column, over the longer side of the image.
        border: bool (N,), whether it touches the image's border.
        touching: bool sparse (N, N), symmetric, without the diagonal.
    """

    of: np.ndarray
    colour: np.ndarray
    place: np.ndarray
    border: np.ndarray
    touching: sparse.csr_array

    def __len__(self) -> int:
        return len(self.colour)


def superpixels(image: np.ndarray) -> Superpixels:
    """SLIC superpixels (Achanta et al. 2012) of an image, uint8 (h, w, 3)."""
    lab = rgb2lab(image)
    height, width = image.shape[:2]
    count = max(2, min(COUNT, height * width // FEWEST_PIXELS))
    found = slic(image, n_segments=count, compactness=COMPACTNESS, start_label=0)
    _, of = np.unique(found, return_inverse=True)
    of = of.reshape(height, width)
    pixels = np.bincount(of.ravel())
    y, x = np.mgrid[:height, :width]

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(of.ravel(), weights=values.ravel()) / pixels

    border = np.zeros(len(pixels), bool)
    border[np.concatenate([of[0], of[-1], of[:, 0], of[:, -1]])] = True
    return Superpixels(
        of=of,
        colour=np.stack([mean(lab[:, :, c]) for c in range(3)], axis=1),
        place=np.stack([mean(y), mean(x)], axis=1) / max(height, width),
        border=border,
        touching=_touching(of, len(pixels)),
    )


def _touching(of: np.ndarray, count: int) -> sparse.csr_array:
    """Which superpixels have neighbouring pixels."""
    one = np.concatenate([of[1:].ravel(), of[:, 1:].ravel()])
    other = np.concatenate([of[:-1].ravel(), of[:, :-1].ravel()])
    apart = one != other
    one, other = one[apart], other[apart]
    ends = (np.concatenate([one, other]), np.concatenate([other, one]))
    return sparse.csr_array((np.ones(len(ends[0]), bool), ends), shape=(count, count))

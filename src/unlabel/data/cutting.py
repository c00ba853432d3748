"""One crop of each image of a batch: where it is cut, and everything that is cut there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unlabel.data.background import remove_background
from unlabel.data.crops import cut
from unlabel.data.layers import cut_mask, cut_segments
from unlabel.data.spec import Crops
from unlabel.data.store import reduction


@dataclass(frozen=True)
class View:
    """One crop of each of B images, planned; the methods write image ``i``'s.

    Attributes:
        crops: the group that it is of.
        sizes: (B, 2), height and width of the whole images in pixels.
        boxes: (B, 4), top, left, height and width in pixels of the whole images.
        flips: bool (B,).
        removed: bool (B,), whether the background goes.
        greys: (B,), levels of the ``grey`` fill, in [0, 1].
        pixels: (B, S, S, C), written to.
        segments: uint8 (B, G, G), written to; G is 0 where none are wanted.
    """

    crops: Crops
    sizes: np.ndarray
    boxes: np.ndarray
    flips: np.ndarray
    removed: np.ndarray
    greys: np.ndarray
    pixels: np.ndarray
    segments: np.ndarray

    @property
    def shrinks(self) -> np.ndarray:
        """(B,): how much smaller images may be decoded so that crops are shrunk, not enlarged."""
        return reduction(self.boxes[:, 2:].min(axis=1) / self.crops.size)

    def cut(self, i: int, image: np.ndarray) -> None:
        """Write the pixels, from the image as it was decoded."""
        box, crops = self.boxes[i], self.crops
        if image.shape[0] != self.sizes[i, 0] or image.shape[1] != self.sizes[i, 1]:
            box = _scaled(box, np.tile(image.shape[:2] / self.sizes[i], 2))
        cut(image, box, bool(self.flips[i]), crops.size, crops.interpolation, self.pixels[i])

    def remove_background(self, i: int, mask: np.ndarray, mean: tuple[float, ...]) -> None:
        """Fill what lies outside the foreground (h, w), by the store's mean if so wanted."""
        if self.crops.background is None:
            return
        keep = cut_mask(mask, self.boxes[i], self.flips[i], self.sizes[i], self.crops.size) > 0
        fill = self.crops.background.fill
        remove_background(self.pixels[i], keep, fill, mean, self.greys[i])

    def cut_segments(self, i: int, mask: np.ndarray) -> None:
        """Write the ids of the segments (h, w) that fill the cells of the grid."""
        grid = self.segments[i]
        grid[:] = cut_segments(mask, self.boxes[i], self.flips[i], self.sizes[i], len(grid))


def _scaled(box: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """A box of the whole image on its smaller decoding; never empty."""
    ends = np.rint((box + np.concatenate([[0, 0], box[:2]])) * scale)
    return np.concatenate([ends[:2], np.maximum(ends[2:] - ends[:2], 1)])

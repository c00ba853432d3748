"""Images as features are taken of them: whole, centred, of one size, without augmentation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unlabel.data.crops import cut
from unlabel.data.store import Store, reduction

CROP = 0.875
"""Side of the central square over the short side of the image, for sizes of at least ``LARGE``."""
LARGE = 96
"""Pixels from which the border is cut off; smaller images are seen to their edges."""
KEPT = 2**30
"""Bytes of pixels up to which a set stays in memory between passes."""


def centre(image: np.ndarray, size: int) -> np.ndarray:
    """Cut out the central square and resize it.

    As RELICv2 tests (side 0.875 of the short side, then resized), and the whole short side for
    images of fewer than 96 pixels, whose border matters.

    Args:
        image: (H, W, C), uint8, uint16 or float32.
        size: pixels of the square's side.

    Returns:
        (size, size, C), of the same type.
    """
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) * (CROP if size >= LARGE else 1)))
    box = np.array([(height - side) // 2, (width - side) // 2, side, side])
    out = np.empty((size, size, image.shape[2]), image.dtype)
    cut(image, box, False, size, "bicubic", out)
    return out


class Images:
    """All images of a store in order, in batches (B, C, size, size) of the stored type.

    A set of up to 1 GiB is read once and kept, so that every subject and seed passes over memory.
    """

    def __init__(self, store: Store, size: int, *, batch_size: int = 256, workers: int = 0) -> None:
        self.store = store
        self.size = size
        self.batch_size = batch_size
        self.workers = workers
        self._kept: list[Tensor] | None = None

    def __len__(self) -> int:
        return len(self.store)

    def __iter__(self) -> Iterator[Tensor]:
        if self._kept is not None:
            return iter(self._kept)
        loader = DataLoader(
            _Centred(self.store, self.size), self.batch_size, num_workers=self.workers
        )
        if not len(self) or len(self) * _Centred(self.store, self.size)[0].nbytes > KEPT:
            return iter(loader)
        self._kept = list(loader)
        return iter(self._kept)


class _Centred(Dataset):
    def __init__(self, store: Store, size: int) -> None:
        self.store = store
        self.size = size

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> Tensor:
        spare = CROP * self.store.sizes[index].min() / self.size
        image = centre(self.store.image(index, int(reduction(spare))), self.size)
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def unit(pixels: Tensor) -> Tensor:
    """Stored pixels as float32: integers over their type's largest value, floats as they are."""
    if pixels.dtype.is_floating_point:
        return pixels.float()
    return pixels.float() / torch.iinfo(pixels.dtype).max


def normalise(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Stored pixels (B, C, H, W) to float32 of mean 0 and standard deviation 1 a channel."""
    centre = torch.tensor(mean, device=pixels.device).view(-1, 1, 1)
    spread = torch.tensor(std, device=pixels.device).view(-1, 1, 1)
    return (unit(pixels) - centre) / spread

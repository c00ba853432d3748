"""Foreground by a backbone: every image whole through the network, its saliency as a mask."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch

from unlabel.backbones.base import Backbone
from unlabel.backbones.saliency import TOP, attends, saliency
from unlabel.data.crops import cut
from unlabel.data.images import normalise
from unlabel.data.saliency.kinds import Kind, resized
from unlabel.data.saliency.masks import to_mask
from unlabel.data.store import Store, reduction
from unlabel.errors import DataError
from unlabel.machine import this_machine

FEWEST_CELLS = 12
"""Cells a side below which a network sees images of twice its size, if it can."""
BATCH = 32
"""Images that the network sees at once."""


def attention(backbone: Backbone, source: str) -> Kind:
    """The kind that makes masks by this backbone, in evaluation mode; ``source`` is its name."""
    options = {"of": source, "weights": _digest(backbone)}
    return Kind("attention", _Attended(backbone), options, parallel=False)


def _digest(backbone: Backbone) -> str:
    """Hash of the weights."""
    digest = hashlib.sha256(backbone.architecture.encode())
    for name, values in sorted(backbone.net.state_dict().items()):
        digest.update(name.encode())
        digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


class _Attended:
    """The maker: batches of images of one size, squeezed to squares."""

    def __init__(self, backbone: Backbone) -> None:
        self.device = this_machine().device
        self.backbone = backbone.to(self.device)
        coarse = max(backbone.grid) < FEWEST_CELLS and backbone.crop_unit is not None
        self.size = backbone.image_size * (2 if coarse else 1)
        self.threshold = 1 - TOP if attends(backbone) else None

    def __call__(self, store: Store) -> Iterator[np.ndarray | None]:
        """A mask of each image.

        Raises:
            DataError: the images have other channels than the network takes.
        """
        if store.info.channels != self.backbone.in_chans:
            raise DataError(
                f"The backbone takes images of {self.backbone.in_chans} channels; those of "
                f"{store.path} have {store.info.channels}."
            )
        info = store.info
        mean, std = self.backbone.mean or info.mean, self.backbone.std or info.std
        for start in range(0, len(store), BATCH):
            rows = range(start, min(start + BATCH, len(store)))
            pixels = torch.from_numpy(np.stack([self._whole(store, row) for row in rows]))
            images = normalise(pixels.permute(0, 3, 1, 2).to(self.device), mean, std)
            maps = saliency(self.backbone, images).cpu().numpy()
            for row, found in zip(rows, maps, strict=True):
                yield to_mask(resized(found, store, row), self.threshold)

    def _whole(self, store: Store, row: int) -> np.ndarray:
        image = store.image(row, int(reduction(store.sizes[row].min() / self.size)))
        out = np.empty((self.size, self.size, image.shape[2]), image.dtype)
        cut(image, np.array([0, 0, *image.shape[:2]]), False, self.size, "bicubic", out)
        return out

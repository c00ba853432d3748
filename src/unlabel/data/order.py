"""Which images make step k: a permutation an epoch, in constant memory for any number of images."""

from __future__ import annotations

import numpy as np

from unlabel.data.random import keys, mix
from unlabel.errors import ConfigError

ROUNDS = 8


class Order:
    """The order of ``images`` images in batches of ``batch_size``, by the seed.

    Sample g = step * batch_size + i of a run belongs to epoch g // images and stands at place
    g % images of that epoch's permutation: each epoch shows every image once, and a batch may
    straddle two epochs. The permutation is a keyed Feistel network on the smallest even number of
    bits that holds all places, walked until it lands below ``images`` (Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains").
    """

    def __init__(self, images: int, batch_size: int, seed: int) -> None:
        if images < 1 or batch_size < 1:
            raise ConfigError(
                f"Batches need at least one image and one place: came {images} images and a "
                f"batch size of {batch_size}."
            )
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.half = max(1, (max(1, images - 1).bit_length() + 1) // 2)

    def step(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the images of one step and the epoch of each: int64 (B,) twice."""
        return self.samples(step * self.batch_size, self.batch_size)

    def samples(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions and epochs of samples ``first`` to ``first + count - 1`` of the run."""
        g = first + np.arange(count, dtype=np.int64)
        epochs = g // self.images
        return self._permute(g % self.images, epochs), epochs

    def _permute(self, places: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        key = keys(self.seed, "order", epochs, np.zeros_like(epochs))
        x = places.astype(np.uint64)
        outside = np.ones(len(x), bool)
        while outside.any():
            x[outside] = self._feistel(x[outside], key[outside])
            outside = x >= self.images
        return x.astype(np.int64)

    def _feistel(self, x: np.ndarray, key: np.ndarray) -> np.ndarray:
        half = np.uint64(self.half)
        mask = np.uint64((1 << self.half) - 1)
        left, right = x >> half, x & mask
        with np.errstate(over="ignore"):
            for number in range(ROUNDS):
                shift = np.uint64((number + 1) * 0x9E3779B97F4A7C15 % 2**64)
                turned = mix(right + key + shift) & mask
                left, right = right, left ^ turned
        return (left << half) | right

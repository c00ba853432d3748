"""A store in memory: what batches ask of a store, and no more."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np


@dataclass(frozen=True)
class FakeInfo:
    channels: int
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass
class FakeStore:
    """Images (H, W, C) of mixed sizes; ``shrinks`` remembers at what size each was asked for."""

    images: list[np.ndarray]
    ids: np.ndarray
    labels: np.ndarray | None = None
    shrinks: list[int] = field(default_factory=list)

    @property
    def info(self) -> FakeInfo:
        channels = self.images[0].shape[2]
        return FakeInfo(channels, str(self.images[0].dtype), (0.4,) * channels, (0.2,) * channels)

    @property
    def sizes(self) -> np.ndarray:
        return np.int32([image.shape[:2] for image in self.images])

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int, shrink: int = 1) -> np.ndarray:
        self.shrinks.append(shrink)
        return self.images[index][::shrink, ::shrink]


def fake_store(
    images: int = 20, channels: int = 3, dtype: str = "uint8", *, small: int = 20, large: int = 50
) -> FakeStore:
    """A store of smooth random images with sides between ``small`` and ``large``; ids have gaps."""
    rng = np.random.default_rng(0)
    most = 1 if dtype == "float32" else np.iinfo(dtype).max
    made = []
    for _ in range(images):
        height, width = (int(side) for side in rng.integers(small, large, 2))
        coarse = rng.random((5, 6, channels)).astype(np.float32)
        smooth = np.stack(
            [cv2.resize(coarse[:, :, c], (width, height)) for c in range(channels)], axis=2
        )
        pixels = (smooth * most).astype(dtype)
        pixels.setflags(write=False)
        made.append(pixels)
    return FakeStore(made, np.arange(images) * 3 + 5, np.arange(images) % 4)

"""A store in memory: what batches ask of a store, and no more."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from unlabel.errors import ConfigError


@dataclass(frozen=True)
class FakeInfo:
    channels: int
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass
class FakeLayer:
    """Masks by the id of their image; ``asked`` remembers which were asked for."""

    masks: dict[int, np.ndarray | None]
    asked: list[int] = field(default_factory=list)

    def mask(self, row: int) -> np.ndarray | None:
        self.asked.append(row)
        return self.masks[row]


@dataclass
class FakeStore:
    """Images (H, W, C) of mixed sizes; ``shrinks`` remembers at what size each was asked for."""

    images: list[np.ndarray]
    ids: np.ndarray
    labels: np.ndarray | None = None
    shrinks: list[int] = field(default_factory=list)
    masks: dict[str, FakeLayer] = field(default_factory=dict)

    @property
    def info(self) -> FakeInfo:
        channels = self.images[0].shape[2]
        return FakeInfo(channels, str(self.images[0].dtype), (0.4,) * channels, (0.2,) * channels)

    @property
    def sizes(self) -> np.ndarray:
        return np.int32([image.shape[:2] for image in self.images])

    def __len__(self) -> int:
        return len(self.images)

    def layer(self, name: str) -> FakeLayer:
        if name not in self.masks:
            raise ConfigError(f"no layer {name!r}")
        return self.masks[name]

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


def with_layers(store: FakeStore) -> FakeStore:
    """The store with a disc as foreground and quarters as segments; its first image has neither."""
    for name in ("foreground", "segments"):
        store.masks[name] = FakeLayer({int(i): None for i in store.ids})
        for row, image in zip(store.ids[1:], store.images[1:], strict=True):
            height, width = image.shape[:2]
            y, x = np.mgrid[: height // 2, : width // 2] * 2 + 1
            if name == "segments":
                mask = 2 * (y > height / 2) + (x > width / 2)
            else:
                middle = ((y - height / 2) / height) ** 2 + ((x - width / 2) / width) ** 2
                mask = 255 * (middle < 0.3**2)
            store.masks[name].masks[int(row)] = mask.astype(np.uint8)
    return store

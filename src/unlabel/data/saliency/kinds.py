"""Kinds of masks by name, as makers of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import cv2
import numpy as np

from unlabel.data.layering import Maker
from unlabel.data.saliency.background import background_detection
from unlabel.data.saliency.masks import to_mask
from unlabel.data.saliency.onnx import OnnxSaliency
from unlabel.data.saliency.pixels import SIDE, mask_size, small_rgb
from unlabel.data.saliency.segments import segments
from unlabel.data.saliency.spectral import spectral_residual
from unlabel.data.store import Store

Saliency = Callable[[np.ndarray], np.ndarray]
"""From an image, uint8 (h, w, 3), to its saliency, (h, w)."""

HAND_MADE: dict[str, Saliency] = {
    "background": background_detection,
    "spectral": spectral_residual,
}
"""Kinds that need no weights; their level is Otsu's."""


@dataclass(frozen=True)
class Kind:
    """A way to make masks.

    Attributes:
        name: as the layer records it.
        make: the maker.
        options: all that the masks depend on besides the name, fit for JSON.
        parallel: whether several processes may share the work; else one does, with all threads.
    """

    name: str
    make: Maker
    options: dict[str, Any] = field(default_factory=dict)
    parallel: bool = True


def hand_made(name: str) -> Kind:
    """A kind of ``HAND_MADE``."""
    make = partial(_masks, saliency=HAND_MADE[name], side=SIDE, threshold=None)
    return Kind(name, make, {"side": SIDE, "threshold": "otsu"})


def from_onnx(network: OnnxSaliency, name: str, digest: str) -> Kind:
    """The network of an ONNX file of this name and SHA-256; its level is 0.5."""
    make = partial(_masks, saliency=network, side=network.side, threshold=0.5)
    return Kind("onnx", make, {"file": name, "sha256": digest, "threshold": 0.5}, parallel=False)


def felzenszwalb() -> Kind:
    """Segments of every image."""
    return Kind("felzenszwalb", _segments, {"side": SIDE})


def _masks(
    store: Store, saliency: Saliency, side: int, threshold: float | None
) -> Iterator[np.ndarray | None]:
    for index in range(len(store)):
        found = saliency(small_rgb(store, index, side))
        yield to_mask(resized(found, store, index), threshold)


def _segments(store: Store) -> Iterator[np.ndarray]:
    for index in range(len(store)):
        yield segments(small_rgb(store, index))


def resized(saliency: np.ndarray, store: Store, index: int) -> np.ndarray:
    """A map (h, w) of the whole image ``index``, of any size, at the size of its mask."""
    height, width = mask_size(store.sizes[index])
    if saliency.shape == (height, width):
        return saliency
    return cv2.resize(saliency.astype(np.float32), (width, height))

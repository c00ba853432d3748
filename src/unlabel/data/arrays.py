"""Files of many images as NumPy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from unlabel.data.items import Item, Listing
from unlabel.data.pixels import BANDS
from unlabel.errors import DataError

IMAGE_KEYS = ("images", "x", "x_train", "data")
"""Names of the images in a .npz file; else its first array."""
LABEL_KEYS = ("labels", "y", "y_train")
"""Names of the labels in a .npz file."""


@dataclass(frozen=True)
class ArrayReader:
    """One image of an array file."""

    path: str
    key: str
    index: int

    def read(self) -> np.ndarray:
        """The image's pixels."""
        return np.asarray(_array(self.path, self.key)[self.index])


def list_arrays(path: Path) -> Listing:
    """List a .npy file of images, or a .npz file with ``images`` and maybe ``labels``.

    Raises:
        DataError: the file is damaged, pickled, or has not one label an image.
    """
    try:
        key, labels = _npz(path) if path.suffix == ".npz" else ("", None)
        count = len(_array(str(path), key))
    except Exception as error:  # zip and header errors of many kinds
        raise DataError(f"{path} cannot be read as NumPy arrays: {error}") from None
    if labels is not None and len(labels) != count:
        raise DataError(f"{path} has {count} images and {len(labels)} labels: one each is needed.")
    names = [None] * count if labels is None else [str(label) for label in labels]
    items = [
        Item(f"{path.stem}/{i:08d}", ArrayReader(str(path), key, i), label)
        for i, label in enumerate(names)
    ]
    return Listing(items, [])


def holds_many(path: Path) -> bool:
    """Whether a .npy file is a stack of images and not one."""
    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (ValueError, OSError, EOFError):
        return False
    return len(shape) == 4 or (len(shape) == 3 and min(shape[0], shape[2]) > BANDS)


def _npz(path: Path) -> tuple[str, np.ndarray | None]:
    with np.load(path, allow_pickle=False) as arrays:
        names = list(arrays)
        key = next((name for name in IMAGE_KEYS if name in names), names[0])
        label_key = next((name for name in LABEL_KEYS if name in names), None)
        return key, arrays[label_key].reshape(-1) if label_key else None


@lru_cache(maxsize=8)
def _array(path: str, key: str) -> np.ndarray:
    if not key:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[key]

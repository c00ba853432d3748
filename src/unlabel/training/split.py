"""Which images of a store a run learns from, and which it only looks at."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unlabel.config import PretrainConfig
from unlabel.data.store import Store, held_out_count
from unlabel.errors import DataError

FEWEST = 8
"""Images that a run needs to learn from."""
HELD_OUT = 16
"""Images that the monitors need, up to a quarter of all."""


def split_store(config: PretrainConfig) -> tuple[Store, Store]:
    """The images to learn from and those held out for the monitors; test images are in neither.

    Raises:
        DataError: there are hardly any images to learn from, or ``rows`` are not of this store.
    """
    train, held_out = _train_and_held_out(config)
    if config.rows is None:
        return train, held_out
    some = train.select(np.isin(train.ids, read_rows(config.rows, train)))
    if len(some) < FEWEST:
        raise DataError(
            f"{config.rows} leaves {len(some)} of the {len(train):,} images of {config.data} that "
            f"there are to learn from; at least {FEWEST} are needed."
        )
    return some, held_out


def read_rows(path: Path, store: Store) -> np.ndarray:
    """Row numbers of the whole store, from a file.

    Raises:
        DataError: there are none in the file, or they are not rows of the store.
    """
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as row numbers (.npy): {error}") from None
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise DataError(
            f"{path} holds {rows.dtype} of shape {rows.shape}; a list of row numbers was expected."
        )
    unknown = rows[(rows < 0) | (rows >= store.info.images)]
    if unknown.size:
        raise DataError(
            f"{path} names row {unknown[0]:,}, but {store.path} has {store.info.images:,} images."
        )
    return rows


def _train_and_held_out(config: PretrainConfig) -> tuple[Store, Store]:
    store = Store.open(config.data)
    most, seed = config.validation_images, config.held_out_seed
    if store.splits is None:
        train = store
    else:
        train = store.select(~np.isin(store.splits, ("validation", "test")))
    if len(train) < FEWEST:
        has = ", ".join(f"{count} {name}" for name, count in store.info.splits.items())
        raise DataError(
            f"{config.data} has no images to learn from, or too few: {len(train)} that are neither "
            f"for validation nor for testing ({has or 'no splits'}); at least {FEWEST} are needed."
        )
    if "validation" in store.info.splits:
        return train, store.split("validation").holdout(1.0, most, seed)[1]
    share = _share(len(train), config.validation_fraction)
    return train.holdout(share, max(most, HELD_OUT), seed)


def left_to_learn(images: int, fraction: float, most: int) -> int:
    """How many of so many images a run learns from, where no split for validation says it.

    Args:
        images: that are not for testing.
        fraction: ``validation_fraction``.
        most: ``validation_images``.
    """
    return images - held_out_count(images, _share(images, fraction), max(most, HELD_OUT))


def _share(images: int, fraction: float) -> float:
    return max(fraction, min(HELD_OUT / images, 1 / 4))

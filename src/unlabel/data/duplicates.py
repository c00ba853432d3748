"""Images that are the same, exactly or nearly, within a set or across two.

Exact: equal hashes of the decoded pixels. Near: difference hashes (64 bits) a few bits apart
propose a pair, and thumbnails that hardly differ confirm it.

Shapes: n images, T*T thumbnail pixels.
"""

from __future__ import annotations

import cv2
import numpy as np

from unlabel.data.store import Store

THUMBNAIL = 16
"""Side of the grey thumbnail that confirms a pair."""
MEAN_DIFFERENCE = 3.0
"""Mean difference of thumbnails, in grey levels of 255, up to which two images are the same."""
LARGEST_DIFFERENCE = 24
"""Largest difference of one thumbnail pixel, likewise."""
MARGIN = 2.0
"""Grey levels by which a cell must be brighter than the one before it: what is flat stays flat."""
BITS = 6
"""Bits in which two hashes may differ. Pairs are sought among those that agree in one of four bands
of 16 bits: with up to three bits apart there is always such a band, with six nearly always."""
NEIGHBOURS = 16
"""In a band's bucket, each image is compared with this many that follow it in order of hash and,
among equal hashes, of brightness."""

_FIRST = (144, 128)


def sketch(pixels: np.ndarray) -> tuple[int, np.ndarray]:
    """Difference hash and thumbnail of one image.

    Args:
        pixels: (H, W, C), of any stored type.

    Returns:
        The hash (64 bits, unsigned) and uint8 (T*T,).
    """
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    else:
        grey = pixels.mean(axis=2, dtype=np.float32)
    if min(grey.shape) > 2 * max(_FIRST):  # in two steps, which is faster
        grey = cv2.resize(grey, _FIRST, interpolation=cv2.INTER_AREA)
    if pixels.dtype != np.uint8:
        low, high = float(grey.min()), float(grey.max())
        grey = (grey - low) * (255 / (high - low) if high > low else 0)
    grey = np.ascontiguousarray(grey, np.float32)
    nine = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    bits = np.packbits((nine[:, 1:] > nine[:, :-1] + MARGIN).reshape(16, 4).T)
    small = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return int.from_bytes(bits.tobytes(), "big"), np.rint(small).astype(np.uint8).reshape(-1)


def exact_pairs(hashes: np.ndarray) -> np.ndarray:
    """Pairs (first, later) of rows with equal content hashes: int64 (m, 2), later ones once.

    Args:
        hashes: (n,) bytes or integers.
    """
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    earlier = first[inverse]
    later = np.flatnonzero(earlier != np.arange(len(hashes)))
    return np.stack([earlier[later], later], axis=1)


def near_pairs(sketches: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """Pairs (smaller row, larger row) of nearly equal images: int64 (m, 2), without repeats.

    Args:
        sketches: uint64 (n,), hashes by ``sketch``.
        thumbnails: uint8 (n, T*T).
    """
    found = [np.empty((0, 2), np.int64)]
    brightness = thumbnails.mean(axis=1)
    for band in range(4):
        key = (sketches >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.lexsort((brightness, sketches, key))
        for step in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
            pairs = np.stack([order[:-step], order[step:]], axis=1)
            pairs = pairs[key[pairs[:, 0]] == key[pairs[:, 1]]]
            apart = np.bitwise_count(sketches[pairs[:, 0]] ^ sketches[pairs[:, 1]])
            found.append(_confirmed(pairs[apart <= BITS], thumbnails))
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _confirmed(pairs: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """The pairs whose thumbnails hardly differ."""
    gap = np.abs(thumbnails[pairs[:, 0]].astype(np.int16) - thumbnails[pairs[:, 1]])
    return pairs[(gap.mean(axis=1) <= MEAN_DIFFERENCE) & (gap.max(axis=1) <= LARGEST_DIFFERENCE)]


def find_pairs(store: Store) -> tuple[np.ndarray, np.ndarray]:
    """Exact and near duplicates within a store, as pairs of rows; near ones among what is left."""
    exact = exact_pairs(store.column("hash"))
    once = np.setdiff1d(np.arange(len(store)), exact[:, 1])
    return exact, once[near_pairs(store.column("sketch")[once], _thumbnails(store)[once])]


def overlap(ours: Store, theirs: Store) -> list[tuple[str, str]]:
    """Names (in ``ours``, in ``theirs``) of images that both have, exactly or nearly."""
    split = len(ours)
    hashes = np.concatenate([ours.column("hash"), theirs.column("hash")])
    sketches = np.concatenate([ours.column("sketch"), theirs.column("sketch")])
    thumbnails = np.concatenate([_thumbnails(ours), _thumbnails(theirs)])
    pairs = np.concatenate([exact_pairs(hashes), near_pairs(sketches, thumbnails)])
    across = np.unique(pairs[(pairs[:, 0] < split) & (pairs[:, 1] >= split)], axis=0)
    return names_of(across, ours.names() + theirs.names())


def names_of(pairs: np.ndarray, names: list[str]) -> list[tuple[str, str]]:
    """Pairs of rows as pairs of names."""
    return [(names[i], names[j]) for i, j in pairs.tolist()]


def _thumbnails(store: Store) -> np.ndarray:
    joined = b"".join(store.files.values("thumbnail"))
    return np.frombuffer(joined, np.uint8).reshape(-1, THUMBNAIL**2)[store.rows]


def repeats(pairs: np.ndarray, count: int) -> np.ndarray:
    """Rows that repeat an earlier one, directly or through a chain of pairs: bool (count,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs)), pairs.T.astype(np.int64)), shape=(count, count))
    _, group = connected_components(links, directed=False)
    _, first = np.unique(group, return_index=True)
    repeated = np.ones(count, bool)
    repeated[first] = False
    return repeated

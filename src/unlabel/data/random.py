"""Random numbers that are a function of their place alone, drawn for many images at once.

Each draw is the SplitMix64 finaliser (Steele, Lea and Flood 2014, "Fast splittable pseudorandom
number generators") of a key made of the seed, the stream's name, the epoch and the image's id, and
of the draw's number. No generator is made an image and none is saved: docs/decisions/0001.
"""

from __future__ import annotations

import hashlib

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser, elementwise on uint64: a bijection that spreads every bit."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def keys(seed: int, stream: str, epochs: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """uint64 (B,): one key an image, by seed, stream, epoch and id.

    Args:
        seed: of the run.
        stream: what is drawn, so that crops and masks (say) are independent.
        epochs: int (B,).
        ids: int (B,), the images' ids.
    """
    name = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest()
    base = np.uint64(int.from_bytes(name, "little"))
    with np.errstate(over="ignore"):
        epoch = mix((np.asarray(epochs).astype(np.uint64) + np.uint64(1)) * GOLDEN + base)
        return mix((np.asarray(ids).astype(np.uint64) + np.uint64(1)) * GOLDEN ^ epoch)


def uniform(key: np.ndarray, count: int, start: int = 0) -> np.ndarray:
    """float64 (B, count) in [0, 1): draws ``start`` to ``start + count - 1`` of each key."""
    with np.errstate(over="ignore"):
        places = np.arange(start + 1, start + count + 1, dtype=np.uint64) * GOLDEN
        bits = mix(key[:, None] + places)
    return (bits >> np.uint64(11)) * 2.0**-53

"""Masks for a whole batch at once: which patches each part sees.

Shapes: B images, P parts, N patches of a grid, row-major.
"""

from __future__ import annotations

import itertools

import numpy as np

from unlabel.data.random import uniform
from unlabel.data.spec import MaskSpec
from unlabel.errors import ConfigError

TRIES = 10
"""Rectangles that are tried before a block mask is left as it is (BEiT, Algorithm 1 and code)."""


def draw_masks(spec: MaskSpec, key: np.ndarray) -> np.ndarray:
    """Draw a mask for each image.

    Args:
        spec: what is wanted.
        key: uint64 (B,), from ``random.keys``.

    Returns:
        bool (B, P, N), true where the part sees the patch. Counts are exactly ``spec.visible``,
        unless ``spec.exact`` is false: then the one part may see more.

    Raises:
        ConfigError: the parts want more patches than there are, or several parts are not exact.
    """
    _check(spec)
    noise = uniform(key, spec.patches)
    if spec.kind == "random":
        return _deal(noise, spec.visible)
    hidden = _blocks(spec, key).reshape(len(key), -1)
    if not spec.exact:
        return ~hidden[:, None]
    # The first part takes what no block covers; where blocks fell short, it gives patches away.
    first = _deal(noise + hidden, spec.visible[:1])
    others = _deal(noise + 2 * first[:, 0], spec.visible[1:])
    return np.concatenate([first, others], axis=1)


def _check(spec: MaskSpec) -> None:
    if min(spec.visible) < 1 or sum(spec.visible) > spec.patches:
        raise ConfigError(
            f"Parts that see {spec.visible} patches do not fit a grid of {spec.grid[0]} x "
            f"{spec.grid[1]} = {spec.patches}."
        )
    if not spec.exact and len(spec.visible) > 1:
        raise ConfigError("Several parts need exact masks, so that their lengths are known.")


def _deal(noise: np.ndarray, counts: tuple[int, ...]) -> np.ndarray:
    """Give each part the patches with the lowest noise that are left: bool (B, P, N)."""
    rank = np.empty(noise.shape, np.int64)
    order = np.argsort(noise, axis=1, kind="stable")
    np.put_along_axis(rank, order, np.arange(noise.shape[1])[None], axis=1)
    ends = np.cumsum((0, *counts))
    parts = [(rank >= a) & (rank < b) for a, b in itertools.pairwise(ends)]
    return np.stack(parts, axis=1) if parts else np.empty((len(noise), 0, noise.shape[1]), bool)


def _blocks(spec: MaskSpec, key: np.ndarray) -> np.ndarray:
    """Rectangles until the wanted number of patches is hidden, or nearly: bool (B, rows, columns).

    BEiT's generator for all images side by side: each round every unfinished image tries one
    rectangle, of an area between ``min_block`` and what is still wanted (``max_block`` at most); it
    counts if it hides something new and not too much. Ten failures in a row end an image.
    """
    rows, columns = spec.grid
    wanted = spec.patches - spec.visible[0]
    hidden = np.zeros((len(key), rows, columns), bool)
    left = np.full(len(key), wanted)
    failures = np.zeros(len(key), np.int64)
    active = np.arange(len(key)) if wanted else np.arange(0)
    attempt = 0
    while len(active):
        draws = uniform(key[active], 4, start=spec.patches + 4 * attempt)
        most = np.minimum(left[active], spec.max_block)
        inside, fits = _rectangles(spec, draws, most)
        new = (inside & ~hidden[active]).sum(axis=(1, 2))
        taken = fits & (new > 0) & (new <= most)
        chosen = active[taken]
        hidden[chosen] |= inside[taken]
        left[chosen] -= new[taken]
        failures[active] += 1
        failures[chosen] = 0
        active = active[(left[active] > 0) & (failures[active] < TRIES)]
        attempt += 1
    return hidden


def _rectangles(
    spec: MaskSpec, draws: np.ndarray, most: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One rectangle an image, and whether it is smaller than the grid."""
    rows, columns = spec.grid
    area = spec.min_block + draws[:, 0] * (most - spec.min_block)
    low, high = np.log(spec.aspect)
    aspect = np.exp(low + draws[:, 1] * (high - low))
    height = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    width = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (height < rows) & (width < columns)
    top = np.floor(draws[:, 2] * (rows - height + 1))
    start = np.floor(draws[:, 3] * (columns - width + 1))
    y, x = np.arange(rows)[None, :, None], np.arange(columns)[None, None, :]
    top, start = top[:, None, None], start[:, None, None]
    height, width = height[:, None, None], width[:, None, None]
    return (y >= top) & (y < top + height) & (x >= start) & (x < start + width), fits

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from unlabel.data.masks import draw_masks
from unlabel.data.random import keys
from unlabel.data.spec import MaskSpec
from unlabel.errors import ConfigError


def masks(spec: MaskSpec, count: int, seed: int = 0) -> np.ndarray:
    return draw_masks(spec, keys(seed, "mask", np.zeros(count), np.arange(count)))


def beit_mask(wanted: int, rng: random.Random, side: int = 14, low: int = 16, high: int = 75):
    """One image's block mask, as BEiT describes it (Algorithm 1) with its code's ten tries."""
    hidden = np.zeros((side, side), bool)
    while hidden.sum() < wanted:
        for _ in range(10):
            room = min(wanted - int(hidden.sum()), high)
            area = rng.uniform(low, room)
            aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height >= side or width >= side:
                continue
            top, left = rng.randint(0, side - height), rng.randint(0, side - width)
            window = hidden[top : top + height, left : left + width]
            if 0 < (~window).sum() <= room:
                window[:] = True
                break
        else:
            break
    return hidden


@pytest.mark.parametrize("kind", ["random", "block"])
@pytest.mark.parametrize("visible", [(49,), (98, 98), (49, 49), (60, 70, 66), (196,), (1,)])
def test_parts_are_exact_and_disjoint(kind, visible):
    drawn = masks(MaskSpec(kind, (14, 14), visible), 64)
    assert drawn.shape == (64, len(visible), 196)
    assert (drawn.sum(axis=2) == visible).all()
    assert drawn.sum(axis=1).max() <= 1


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["random", "block"]),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    data=st.data(),
)
def test_any_grid_and_parts(kind, grid, data):
    patches = grid[0] * grid[1]
    one = data.draw(st.integers(1, patches))
    two = data.draw(st.integers(0, patches - one))
    visible = (one, two) if two else (one,)
    drawn = masks(MaskSpec(kind, grid, visible, min_block=2), 7)
    assert (drawn.sum(axis=2) == visible).all()
    assert drawn.sum(axis=1).max() <= 1


def test_random_parts_see_every_patch_equally_often():
    drawn = masks(MaskSpec("random", (4, 4), (4, 8)), 8000)
    for part, count in enumerate((4, 8)):
        seen = drawn[:, part].sum(axis=0)
        assert np.abs(seen / 8000 - count / 16).max() < 0.025


@pytest.mark.parametrize(("wanted", "mean", "exact"), [(98, 97.57, 0.709), (75, 74.48, 0.669)])
def test_blocks_are_distributed_as_beits(wanted, mean, exact):
    count = 3000
    ours = ~masks(MaskSpec("block", (14, 14), (196 - wanted,), exact=False), count)[:, 0]
    rng = random.Random(0)
    theirs = np.stack([beit_mask(wanted, rng).ravel() for _ in range(count)])
    for hidden in (ours, theirs):
        covered = hidden.sum(axis=1)
        assert covered.max() <= wanted
        assert abs(covered.mean() - mean) < 0.12
        assert abs((covered == wanted).mean() - exact) < 0.035
    assert stats.ks_2samp(ours.sum(axis=1), theirs.sum(axis=1)).pvalue > 1e-3
    # Where patches are hidden, and how ragged the border is: both as in the loop version.
    spread = np.sqrt(0.25 / count)
    assert np.abs(ours.mean(axis=0) - theirs.mean(axis=0)).max() < 5.5 * math.sqrt(2) * spread
    assert stats.ks_2samp(edges(ours), edges(theirs)).pvalue > 1e-3


def edges(hidden: np.ndarray) -> np.ndarray:
    """Neighbouring pairs of patches of which one is hidden, in each image."""
    image = hidden.reshape(-1, 14, 14)
    rows = (image[:, 1:] != image[:, :-1]).sum(axis=(1, 2))
    return rows + (image[:, :, 1:] != image[:, :, :-1]).sum(axis=(1, 2))


def test_exact_blocks_top_up_the_same_blocks():
    """The second half sees all that the blocks cover, and a few patches more."""
    loose = ~masks(MaskSpec("block", (14, 14), (98,), exact=False), 200)[:, 0]
    halves = masks(MaskSpec("block", (14, 14), (98, 98)), 200)
    assert (halves[:, 1] >= loose).all()
    assert (halves[:, 0] == ~halves[:, 1]).all()
    assert (
        edges(halves[:, 1])
        < 0.75 * edges(masks(MaskSpec("random", (14, 14), (98,)), 200)[:, 0]).mean()
    ).mean() > 0.9


def test_a_mask_depends_on_its_own_image_alone():
    spec = MaskSpec("block", (14, 14), (98, 98))
    key = keys(0, "mask", np.zeros(9), np.arange(9))
    together = draw_masks(spec, key)
    alone = np.concatenate([draw_masks(spec, key[i : i + 1]) for i in range(9)])
    np.testing.assert_array_equal(together, alone)
    assert len({mask.tobytes() for mask in together}) == 9


def test_impossible_masks_are_refused():
    with pytest.raises(ConfigError, match="do not fit"):
        masks(MaskSpec("random", (4, 4), (9, 8)), 1)
    with pytest.raises(ConfigError, match="do not fit"):
        masks(MaskSpec("random", (4, 4), (0,)), 1)
    with pytest.raises(ConfigError, match="exact"):
        masks(MaskSpec("block", (4, 4), (8, 8), exact=False), 1)

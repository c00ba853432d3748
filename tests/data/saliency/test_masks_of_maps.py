from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from unlabel.data.saliency.masks import _otsu, to_mask


def disc(side: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.hypot(y, x) < radius


def test_the_level_is_half_way_between_least_and_most():
    ramp = np.tile(np.linspace(-3.0, 5.0, 101), (100, 1))
    mask = to_mask(ramp, 0.5)
    np.testing.assert_array_equal(mask > 0, ramp > 1)
    np.testing.assert_array_equal(to_mask(ramp, 0.785) > 0, ramp > 3.28)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 255}


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.9))
@settings(max_examples=40, deadline=None)
def test_otsus_level_has_the_least_spread_within(seed, share):
    rng = np.random.default_rng(seed)
    low, high = rng.normal(60, 15, (40, 40)), rng.normal(190, 15, (40, 40))
    saliency = np.where(np.arange(40) < share * 40, low, high)
    saliency = np.rint(saliency.clip(0, 255)) / 255

    def within(level: float) -> float:
        halves = saliency[saliency > level], saliency[saliency <= level]
        return sum(half.size * half.var() for half in halves if half.size)

    best = min(within((level + 0.5) / 255) for level in range(255))
    assert within(_otsu(saliency.astype(np.float32))) <= best * 1.0001


def test_specks_go_and_pieces_stay():
    saliency = disc(100, 20).astype(float)
    saliency[2:11, 2:11] = 1  # 81 of 10,000 pixels
    saliency[85:96, 85:96] = 1  # 121
    mask = to_mask(saliency, 0.5) > 0
    _, count = ndimage.label(mask)
    assert count == 2
    assert mask[90, 90]
    assert not mask[5, 5]
    assert mask[50, 50]


@pytest.mark.parametrize("saliency", [np.zeros((50, 50)), np.full((50, 50), 3.3), disc(100, 3)])
def test_a_useless_mask_is_none(saliency):
    assert to_mask(saliency.astype(float), 0.5) is None


def test_a_mask_of_nearly_everything_is_none():
    assert to_mask(~disc(100, 4) * 1.0, 0.5) is None
    assert to_mask(~disc(100, 8) * 1.0, 0.5) is not None

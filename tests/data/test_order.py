from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from unlabel.data.order import Order
from unlabel.errors import ConfigError


@settings(max_examples=60, deadline=None)
@given(images=st.integers(1, 300), seed=st.integers(0, 2**70), epoch=st.integers(0, 10**9))
def test_each_epoch_shows_every_image_once(images, seed, epoch):
    positions, epochs = Order(images, 1, seed).samples(epoch * images, images)
    assert sorted(positions) == list(range(images))
    assert set(epochs) == {epoch}


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 100),
    batch_size=st.integers(1, 150),
    step=st.integers(0, 40),
    cut=st.integers(0, 150),
)
def test_however_it_is_sliced_it_is_the_same(images, batch_size, step, cut):
    order = Order(images, batch_size, seed=1)
    cut = min(cut, batch_size)
    positions, epochs = order.step(step)
    one, two = (
        order.samples(step * batch_size, cut),
        order.samples(step * batch_size + cut, batch_size - cut),
    )
    np.testing.assert_array_equal(positions, np.concatenate([one[0], two[0]]))
    np.testing.assert_array_equal(epochs, np.concatenate([one[1], two[1]]))
    long_run, _ = order.samples(0, (step + 1) * batch_size)
    np.testing.assert_array_equal(positions, long_run[step * batch_size :])


def test_epochs_and_seeds_differ():
    one = Order(1000, 1, seed=0).samples(0, 2000)[0].reshape(2, 1000)
    other = Order(1000, 1, seed=1).samples(0, 1000)[0]
    assert (one[0] == one[1]).mean() < 0.02
    assert (one[0] == other).mean() < 0.02


@pytest.mark.parametrize("images", [5, 12, 16])
def test_every_image_comes_equally_often_at_every_place(images):
    order = Order(images, 1, seed=0).samples(0, 4000 * images)[0].reshape(4000, images)
    for place in (0, images // 2, images - 1):
        counts = np.bincount(order[:, place], minlength=images)
        assert stats.chisquare(counts).pvalue > 1e-4
    pairs = np.bincount(order[:, 0] * images + order[:, 1], minlength=images**2)
    apart = pairs[~np.eye(images, dtype=bool).ravel()]
    assert stats.chisquare(apart).pvalue > 1e-4


def test_neighbours_of_a_long_epoch_are_unrelated():
    places = Order(50_000, 1, seed=0).samples(0, 50_000)[0] / 50_000
    assert stats.kstest(np.diff(places) % 1, "uniform").pvalue > 1e-3


def test_a_hundred_million_images_need_no_memory():
    order = Order(10**8 + 7, 4096, seed=0)
    positions, _ = order.step(10**6)
    assert len(set(positions)) == 4096
    assert positions.max() < 10**8 + 7
    assert stats.kstest(positions / (10**8 + 7), "uniform").pvalue > 1e-3


def test_nothing_to_order_is_refused():
    with pytest.raises(ConfigError, match="at least one image"):
        Order(0, 8, seed=0)

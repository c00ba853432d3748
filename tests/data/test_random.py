from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from unlabel.data.random import GOLDEN, keys, mix, uniform

IMAGES = 20_000


def drawn(seed=0, stream="crop", epoch=0, first=0, count=1, start=0) -> np.ndarray:
    ids = np.arange(first, first + IMAGES)
    return uniform(keys(seed, stream, np.full(IMAGES, epoch), ids), count, start)


def test_known_answers_of_splitmix64():
    """The first outputs of the published generator from the seed 1234567."""
    with np.errstate(over="ignore"):
        states = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * GOLDEN
    assert mix(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize(
    "values",
    [
        drawn()[:, 0],
        drawn(epoch=3)[:, 0],
        drawn(seed=2**63 + 1)[:, 0],
        drawn(first=10**12)[:, 0],
        uniform(keys(0, "crop", np.zeros(1), np.zeros(1)), IMAGES)[0],
    ],
    ids=["ids", "epoch", "seed", "large ids", "draws of one image"],
)
def test_draws_are_uniform(values):
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    bytes_seen = np.bincount((values * 2**40).astype(np.int64) & 255, minlength=256)
    assert stats.chisquare(bytes_seen).pvalue > 1e-3


@pytest.mark.parametrize(
    "other",
    [
        {"first": 1},
        {"epoch": 1},
        {"seed": 1},
        {"stream": "crop2"},
        {"start": 1},
        {"first": 1, "epoch": 1},
    ],
    ids=str,
)
def test_neighbours_are_independent(other):
    one, two = drawn()[:, 0], drawn(**other)[:, 0]
    table = np.histogram2d(one, two, bins=10, range=[[0, 1], [0, 1]])[0]
    assert stats.chisquare(table.ravel()).pvalue > 1e-3
    assert abs(np.corrcoef(one, two)[0, 1]) < 4 / np.sqrt(IMAGES)


def test_a_row_depends_on_its_own_key_alone():
    ids, epochs = np.array([5, 9, 5, 2**40]), np.array([0, 0, 1, 7])
    together = uniform(keys(3, "x", epochs, ids), 4)
    for row in range(len(ids)):
        alone = uniform(keys(3, "x", epochs[row : row + 1], ids[row : row + 1]), 4)
        np.testing.assert_array_equal(together[row : row + 1], alone)
    assert len(np.unique(together)) == together.size


def test_later_draws_continue_earlier_ones():
    key = keys(0, "x", np.zeros(3), np.arange(3))
    np.testing.assert_array_equal(uniform(key, 8)[:, 5:], uniform(key, 3, start=5))

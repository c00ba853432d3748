"""Bootstrap intervals cover what they promise on data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from unlabel.evaluation.intervals import bootstrap, interval


def coverage(draw, truth, trials=400):
    hits = 0
    for trial in range(trials):
        low, high = interval(draw(np.random.default_rng(trial)), seed=trial)
        hits += low <= truth <= high
    return hits / trials


@pytest.mark.parametrize("p", [0.5, 0.9])
def test_covers_bernoulli_images(p):
    assert 0.92 <= coverage(lambda rng: rng.random((1, 300)) < p, p) <= 0.98


def test_covers_images_that_all_seeds_share():
    # Every seed errs on the same images: three seeds know no more than one.
    def draw(rng):
        return np.repeat(rng.random((1, 300)) < 0.7, 3, axis=0)

    assert 0.92 <= coverage(draw, 0.7) <= 0.98


def test_covers_seeds_and_images_together():
    def draw(rng):
        level = 0.6 + 0.04 * rng.normal(size=(5, 1))
        difficulty = 0.2 * rng.normal(size=(1, 300))
        return rng.random((5, 300)) < np.clip(level + difficulty, 0, 1)

    assert 0.88 <= coverage(draw, 0.6) <= 1


def test_covers_a_paired_difference():
    def draw(rng):
        shared = rng.random((1, 400))
        a, b = (rng.random((3, 400)) * 0.3 + 0.7 * shared for _ in range(2))
        return (a < 0.6).astype(np.int8) - (b < 0.55)

    rng = np.random.default_rng(0)
    x = rng.random(10**6) * 0.7 + rng.random(10**6) * 0.3
    truth = (x < 0.6).mean() - (x < 0.55).mean()
    assert 0.92 <= coverage(draw, truth) <= 1


def test_equals_drawing_images_one_by_one():
    rng = np.random.default_rng(0)
    scores = (rng.random((1, 200)) < 0.8).astype(float)
    slow = scores[0][rng.integers(200, size=(20_000, 200))].mean(1)
    fast = bootstrap(scores, resamples=20_000)
    assert np.quantile(fast, [0.025, 0.975]) == pytest.approx(
        np.quantile(slow, [0.025, 0.975]), abs=0.005
    )


def test_seeds_widen_the_interval_by_their_own_spread():
    scores = np.zeros((3, 10_000), bool)
    for row, level in zip(scores, (0.5, 0.6, 0.7), strict=True):
        row[: int(10_000 * level)] = True
    drawn = bootstrap(scores, resamples=20_000)
    # Seeds' variance of the mean, unbiased: var(0.5, 0.6, 0.7) / 3.
    assert drawn.std() == pytest.approx(np.sqrt(0.01 / 3), rel=0.03)


def test_certain_outcomes_have_no_width():
    assert interval(np.ones((2, 50), bool)) == pytest.approx((1, 1))

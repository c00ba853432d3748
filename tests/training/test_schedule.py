from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlabel.config import OptimConfig
from unlabel.training.schedule import learning_rate, shared_steps, weight_decay


def rates(steps: int = 800, batch: int = 256, **settings) -> list[float]:
    optim = OptimConfig(lr=1.0, **settings)
    return [learning_rate(optim, step, steps, batch) for step in range(steps)]


def test_warmup_climbs_linearly_and_never_starts_at_zero():
    climb = rates(warmup=0.1)[:80]
    steps = [b - a for a, b in pairwise(climb)]
    assert climb[0] > 0
    assert steps == pytest.approx([steps[0]] * len(steps))


def test_cosine_is_the_closed_form_and_ends_at_the_floor():
    found = rates(warmup=0.0, min_lr=0.1)
    expected = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * k / 800)) for k in range(800)]
    assert found == pytest.approx(expected)
    assert found[-1] == pytest.approx(0.1, abs=1e-4)


def test_step_is_constant_for_seven_eighths_and_then_a_tenth():
    found = rates(schedule="step", warmup=0.0)
    assert set(found[:700]) == {1.0}
    assert set(found[700:]) == {0.1}


def test_constant_then_linear_decay():
    found = rates(schedule="constant", warmup=0.0, decay=0.25)
    assert set(found[:601]) == {1.0}
    assert found[700] == pytest.approx(0.5)
    assert found[-1] == pytest.approx(1 / 200)


@given(st.integers(1, 3000), st.sampled_from(["cosine", "step", "constant"]), st.floats(0, 0.9))
def test_every_rate_is_positive_and_at_most_the_peak(steps: int, schedule: str, warmup: float):
    optim = OptimConfig(lr=0.5, schedule=schedule, warmup=warmup)
    for step in {0, steps // 2, steps - 1}:
        assert 0 <= learning_rate(optim, step, steps, 512) <= 1.0


@pytest.mark.parametrize(("how", "factor"), [("linear", 4), ("sqrt", 2), ("none", 1)])
def test_rates_scale_with_the_batch(how: str, factor: float):
    usual = rates(batch=256, min_lr=0.1)
    assert rates(batch=1024, min_lr=0.1, scale_lr=how) == pytest.approx([factor * r for r in usual])


def test_weight_decay_is_constant_or_a_cosine_to_its_end():
    constant, rising = (OptimConfig(weight_decay=0.04, weight_decay_end=end) for end in (None, 0.4))
    assert {weight_decay(constant, k, 100) for k in range(100)} == {0.04}
    found = [weight_decay(rising, k, 100) for k in range(101)]
    assert (found[0], found[50], found[100]) == pytest.approx((0.04, 0.22, 0.4))
    assert found == sorted(found)


def test_warmup_in_steps_goes_before_the_share():
    assert rates(warmup=0.5, warmup_steps=8)[:9] == pytest.approx([(k + 1) / 9 for k in range(9)])


@pytest.mark.parametrize(
    ("settings", "shared"),
    [
        ({"schedule": "step"}, 175),
        ({"schedule": "constant", "decay": 0.25}, 151),
        ({"schedule": "cosine"}, 0),
        ({"schedule": "step", "weight_decay_end": 0.4}, 0),
        ({"schedule": "step", "warmup_steps": None, "warmup": 0.1}, 0),
    ],
)
def test_what_two_lengths_share_ends_where_their_rates_part(settings: dict, shared: int):
    optim = OptimConfig(**{"lr": 1.0, "warmup_steps": 10, **settings})
    assert shared_steps(optim, 200, 800, 256) == shared


@given(st.integers(2, 300), st.integers(2, 300), st.sampled_from(["step", "constant"]))
def test_shared_rates_are_the_same_numbers_and_the_next_is_not(a: int, b: int, schedule: str):
    short, long = sorted((a, b))
    settings = {"schedule": schedule, "warmup_steps": 3}
    count = shared_steps(OptimConfig(lr=1.0, **settings), short, long, 256)
    ours, theirs = (rates(steps, **settings) for steps in (short, long))
    assert ours[:count] == theirs[:count]
    assert count == short or ours[count] != theirs[count]

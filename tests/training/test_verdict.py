from __future__ import annotations

import numpy as np
import pytest

from unlabel.training.verdict import collapse, judge


def monitors(losses, *, std=0.8, rank=20.0, knn=None) -> list[dict]:
    rows = []
    for i, loss in enumerate(losses):
        row = {"step": i * 100, "held_out_loss": float(loss), "feature_std": std, "rankme": rank}
        rows.append(row | ({"knn": knn[i]} if knn else {}))
    return rows


FALLING = np.linspace(7, 3, 21)
LEVEL = 3 + 4 * np.exp(-np.arange(21) / 1.5)
RISING = np.concatenate([np.linspace(7, 3, 11), np.linspace(3.1, 4, 10)])


@pytest.mark.parametrize(
    ("losses", "state"),
    [
        (FALLING, "improving"),
        (LEVEL, "saturated"),
        (RISING, "overfitting"),
        (FALLING[:3], "unclear"),
    ],
)
def test_each_curve_has_its_verdict(losses, state: str):
    verdict = judge(monitors(losses), 2000, 500)
    assert verdict.state == state
    assert verdict.why
    assert verdict.next


def test_collapse_goes_before_a_falling_loss():
    assert judge(monitors(FALLING, std=0.01), 2000, 500).state == "collapsed"
    assert judge(monitors(FALLING, rank=1.01), 2000, 500).state == "collapsed"


def test_a_loss_that_never_falls_is_no_success():
    verdict = judge(monitors(np.full(21, 7.0)), 2000, 500)
    assert verdict.state == "unclear"
    assert "did not learn" in verdict.headline


def test_the_overfitting_verdict_names_the_best_step():
    assert "step 1000" in judge(monitors(RISING), 2000, 500).headline


def test_knn_no_better_than_untrained_is_said():
    verdict = judge(monitors(FALLING, knn=[0.5] * 21), 2000, 500)
    assert any("no better than the untrained" in line for line in verdict.why)


def test_improving_advises_a_longer_run():
    assert any("4000" in line for line in judge(monitors(FALLING), 2000, 500).next)


@pytest.mark.parametrize("losses", [FALLING, RISING])
@pytest.mark.parametrize(
    ("knn", "state", "words"),
    [
        (np.linspace(0.3, 0.8, 21), "improving", "Still improving"),
        (0.8 - 0.5 * np.exp(-np.arange(21) / 1.5), "saturated", "Saturated"),
        (np.linspace(0.5, 0.4, 21), "unclear", "did not learn: the online kNN"),
        (None, "unclear", "without labels"),
    ],
)
def test_the_online_knn_judges_losses_without_a_scale(losses, knn, state, words):
    verdict = judge(
        monitors(losses, knn=knn if knn is None else list(knn)), 2000, 500, loss_tells=False
    )
    assert verdict.state == state
    assert words in verdict.headline


def test_a_collapse_is_seen_whatever_the_loss():
    assert judge(monitors(FALLING, std=0.01), 2000, 500, loss_tells=False).state == "collapsed"


@pytest.mark.parametrize(
    ("std", "rank", "collapsed"), [(0.5, 9.0, False), (0.04, 9.0, True), (0.5, 1.05, True)]
)
def test_collapse_is_named_with_its_figures(std: float, rank: float, collapsed: bool):
    why = collapse({"feature_std": std, "rankme": rank})
    assert (why is not None) == collapsed
    if why:
        assert f"{std:.3f}" in why
        assert f"{rank:.2f}" in why


@pytest.mark.parametrize(
    ("at", "state"), [([12, 14, 20], "collapsed"), ([12, 14], "collapsed"), ([2, 3], "improving")]
)
def test_a_collapse_at_times_is_no_progress_unless_it_is_long_past(at: list[int], state: str):
    rows = monitors(FALLING)
    for look in at:
        rows[look]["feature_std"] = 0.01
    verdict = judge(rows, 2000, 500)
    assert verdict.state == state
    if at == [12, 14]:
        assert any("At 2 of 20 looks, first by step 1200" in line for line in verdict.why)


def test_a_few_images_tell_nothing():
    verdict = judge(monitors(FALLING), 2000, 15)
    assert verdict.state == "unclear"
    assert "Images held out: 15" in verdict.why[0]


@pytest.mark.parametrize(("images", "state"), [(75, "unclear"), (3000, "improving")])
def test_a_rise_of_the_online_knn_is_measured_against_chance(images: int, state: str):
    rows = monitors(FALLING, knn=list(np.linspace(0.213, 0.253, 21)))
    verdict = judge(rows, 2000, images, loss_tells=False)
    assert verdict.state == state
    assert verdict.why[-1].endswith("untrained network.") == (images == 75)


def test_a_gain_is_no_more_than_the_whole():
    """A loss that rises first and then falls."""
    losses = np.concatenate([np.linspace(7, 9, 11), np.linspace(8.5, 4, 10)])
    assert "brought 100%" in judge(monitors(losses), 2000, 500).why[0]

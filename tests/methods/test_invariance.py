from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabel.methods.parts.invariance import (
    contrast_and_invariance,
    draw_candidates,
    log_likelihoods,
    unit,
)


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**31))
def test_candidates_are_the_row_itself_and_others_once(images, negatives, seed):
    drawn = draw_candidates(images, images, negatives, seed)
    assert drawn.shape == (images, 1 + min(negatives, images - 1))
    assert (drawn[:, 0] == torch.arange(images)).all()
    assert all(len(set(row)) == len(row) for row in drawn.tolist())
    assert ((drawn >= 0) & (drawn < images)).all()


def test_negatives_are_uniform():
    counts = np.zeros((8, 8))
    for seed in range(4000):
        for row, others in enumerate(draw_candidates(8, 8, 2, seed)[:, 1:].tolist()):
            counts[row, others] += 1
    others = counts[~np.eye(8, dtype=bool)]
    assert counts.trace() == 0
    assert abs(others / 4000 - 2 / 7).max() < 0.03


def loops(online, target, candidates, temperature):
    """Float64, from the equations: -log p and KL, averaged over rows, with p and q as lists."""

    def cosine(a, b):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    contrast = kl = 0.0
    for i, row in enumerate(candidates):
        p = [math.exp(cosine(online[i], target[j]) / temperature) for j in row]
        q = [math.exp(cosine(target[i], online[j]) / temperature) for j in row]
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        contrast -= math.log(p[0]) / len(candidates)
        kl += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / len(candidates)
    return contrast, kl


@pytest.mark.parametrize("negatives", [1, 3, 6, None])
def test_terms_against_float64_loops(negatives):
    torch.manual_seed(0)
    online, target = torch.randn(2, 7, 5)
    candidates = draw_candidates(7, 7, negatives, seed=3)
    a, b = unit(online), unit(target)
    there = log_likelihoods(a, b, candidates, 0.2)
    back = log_likelihoods(b, a, candidates, 0.2)
    contrast, kl = contrast_and_invariance(there, back)
    expected = loops(online.double().tolist(), target.double().tolist(), candidates.tolist(), 0.2)
    assert contrast.item() == pytest.approx(expected[0], abs=1e-5)
    assert kl.item() == pytest.approx(expected[1], abs=1e-5)


def test_orthogonal_rows_give_the_log_of_the_candidates_and_no_divergence():
    rows = torch.eye(22)
    candidates = draw_candidates(11, 11, 10, seed=0)
    there = log_likelihoods(rows[:11], rows[11:], candidates, 0.2)
    back = log_likelihoods(rows[11:], rows[:11], candidates, 0.2)
    contrast, kl = contrast_and_invariance(there, back)
    assert contrast.item() == pytest.approx(math.log(11), abs=1e-6)
    assert kl.item() == pytest.approx(0, abs=1e-6)


def test_random_rows_give_the_expansion_for_small_scores():
    """Scores of random unit vectors are normal, of variance v = 1 / (D tau^2), to second order.

    Then E log of the mean of K exponentials is v / 2 - (exp(v) - 1) / (2 K), and the divergence of
    two softmaxes that share one of their scores is v (K - 1)^2 / K^2: 2.442 and 0.081 here.
    """
    torch.manual_seed(0)
    a, b = unit(torch.randn(8000, 256)), unit(torch.randn(8000, 256))
    candidates = draw_candidates(8000, 8000, 10, seed=1)
    contrast, kl = contrast_and_invariance(
        log_likelihoods(a, b, candidates, 0.2), log_likelihoods(b, a, candidates, 0.2)
    )
    v, k = 1 / (256 * 0.2**2), 11
    expected = math.log(k) + v / 2 - (math.exp(v) - 1) / (2 * k)
    assert contrast.item() == pytest.approx(expected, abs=0.01)  # three standard errors
    assert kl.item() == pytest.approx(v * (k - 1) ** 2 / k**2, abs=0.002)


def test_the_stop_gradient_is_of_the_entropy_alone():
    torch.manual_seed(0)
    scores = torch.randn(2, 4, 3, requires_grad=True)
    there, back = scores.log_softmax(2)
    _, kl = contrast_and_invariance(there, back)
    (ours,) = torch.autograd.grad(kl, scores)
    there, back = scores.log_softmax(2)
    (expected,) = torch.autograd.grad(-(there.exp() * back).sum(1).mean(), scores)
    torch.testing.assert_close(ours, expected)

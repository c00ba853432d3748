from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss.swav_loss import sinkhorn as lightlys
from torch.nn.functional import normalize

from unlabel.methods.parts.sinkhorn import sinkhorn


def cosines(rows: int, prototypes: int, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return normalize(torch.randn(rows, 8), dim=1) @ normalize(torch.randn(prototypes, 8), dim=1).T


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("epsilon", [0.05, 0.1])
def test_codes_are_lightlys(iterations: int, epsilon: float):
    scores = cosines(24, 10)
    expected = lightlys(scores, iterations=iterations, epsilon=epsilon)
    torch.testing.assert_close(sinkhorn(scores, epsilon, iterations), expected)


@given(
    rows=st.integers(1, 40),
    prototypes=st.integers(2, 40),
    epsilon=st.floats(0.025, 1),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40, deadline=None)
def test_codes_are_probabilities_and_many_iterations_share_them_out(
    rows: int, prototypes: int, epsilon: float, seed: int
):
    scores = cosines(rows, prototypes, seed)
    codes = sinkhorn(scores, epsilon, 3)
    assert (codes >= 0).all()
    torch.testing.assert_close(codes.sum(1), torch.ones(rows), rtol=1e-5, atol=0)
    soft = sinkhorn(scores, max(epsilon, 0.2), 200)
    each = torch.full((prototypes,), rows / prototypes)
    torch.testing.assert_close(soft.sum(0), each, rtol=1e-2, atol=0)


def test_cosines_at_both_ends_stay_finite_at_the_smallest_epsilon():
    scores = torch.tensor([[1.0, -1.0], [1.0, -1.0], [-1.0, -1.0]])
    codes = sinkhorn(scores, 0.025, 3)
    assert codes.isfinite().all()


def test_shared_rows_count_like_rows_of_the_batch_and_get_no_codes():
    scores = cosines(30, 6)
    whole = sinkhorn(scores, 0.05, 3)
    torch.testing.assert_close(sinkhorn(scores[:12], 0.05, 3, shared=scores[12:]), whole[:12])


def test_scores_stay_as_they_are_and_codes_carry_no_graph():
    scores = cosines(6, 4).requires_grad_()
    before = scores.detach().clone()
    assert not sinkhorn(scores, 0.05, 3).requires_grad
    assert torch.equal(scores, before)

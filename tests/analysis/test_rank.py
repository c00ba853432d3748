"""RankMe and the spread of features have closed forms on simple matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unlabel.analysis.rank import EPSILON, feature_std, rankme


@pytest.mark.parametrize("size", [2, 16, 100])
def test_rankme_of_the_identity_is_its_size(size):
    assert rankme(torch.eye(size)) == pytest.approx(size, rel=1e-4)


def test_rankme_of_one_direction_is_one():
    assert rankme(torch.ones(50, 1) @ torch.randn(1, 20)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (1, 5)])
def test_rankme_equals_the_definition_by_svd(shape):
    x = np.random.default_rng(0).normal(size=shape) * np.linspace(0.1, 3, shape[1]) + 1
    s = np.linalg.svd(x, compute_uv=False)
    p = s / s.sum() + EPSILON
    assert rankme(torch.from_numpy(x)) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)


def test_rankme_is_of_uncentred_features():
    x = torch.randn(200, 10, generator=torch.Generator().manual_seed(0))
    assert rankme(x + 100) < 2 < rankme(x)


def test_rankme_ignores_the_scale_and_survives_zeros_and_bf16():
    x = torch.randn(30, 8, generator=torch.Generator().manual_seed(1))
    assert rankme(x * 1000) == pytest.approx(rankme(x), rel=1e-6)
    assert rankme(torch.zeros(4, 3)) == 1
    assert rankme(x.bfloat16()) == pytest.approx(rankme(x), rel=1e-2)


def test_spread_is_zero_when_collapsed_and_one_when_even():
    even = torch.randn(5000, 64, generator=torch.Generator().manual_seed(2))
    assert feature_std(even) == pytest.approx(1, abs=0.01)
    assert feature_std(torch.ones(10, 4) * torch.arange(1.0, 11)[:, None]) == pytest.approx(0)

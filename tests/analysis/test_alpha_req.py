"""The exponent of a spectrum that was made with one is found again."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from unlabel.analysis.alpha_req import alpha_req


def with_spectrum(values: np.ndarray, images: int = 400) -> torch.Tensor:
    """Features whose covariance has exactly these eigenvalues."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=(images, len(values)))
    basis, _ = np.linalg.qr(start - start.mean(0))
    turn, _ = np.linalg.qr(rng.normal(size=(len(values), len(values))))
    return torch.from_numpy((basis * np.sqrt(values)) @ turn + 3)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("width", [20, 150])
def test_a_power_law_is_found(alpha: float, width: int):
    found = alpha_req(with_spectrum(np.arange(1, width + 1) ** -alpha))
    assert found == pytest.approx(alpha, abs=1e-6)


def test_head_and_tail_do_not_count():
    values = np.arange(1, 151) ** -1.0
    values[:10] = np.linspace(50, 2, 10)
    values[100:] = 1e-6
    assert alpha_req(with_spectrum(values)) == pytest.approx(1, abs=1e-6)


def test_where_it_bends_the_line_is_numpys_weighted_one():
    ranks = np.arange(1, 121)
    values = np.where(ranks < 40, ranks**-0.5, 40**0.5 * ranks**-1.0)
    used = np.arange(11, 101)
    slope, _ = np.polyfit(-np.log(used), np.log(values[used - 1]), 1, w=used**-0.5)
    assert alpha_req(with_spectrum(values)) == pytest.approx(slope, rel=1e-6)


def test_fewer_images_than_features_and_scale_make_no_difference():
    x = torch.randn(90, 200, generator=torch.Generator().manual_seed(0))
    wide = torch.cat([x, torch.zeros(90, 300)], 1)
    assert alpha_req(x * 1000) == pytest.approx(alpha_req(x), rel=1e-4)
    assert alpha_req(wide) == pytest.approx(alpha_req(x), rel=1e-6)


@pytest.mark.parametrize("rank", [1, 10, 14])
def test_too_few_directions_have_no_slope(rank: int):
    assert math.isnan(alpha_req(with_spectrum(np.ones(rank))))
    assert math.isnan(alpha_req(torch.ones(20, 5)))

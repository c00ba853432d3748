"""LiDAR has closed forms where images and their views spread along known directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import eigh

from unlabel.analysis.lidar import DELTA, lidar
from unlabel.analysis.rank import EPSILON


def designed(directions: int, width: int, spread: float = 1.0) -> torch.Tensor:
    """Image means at plus and minus each of so many axes, views at plus and minus every axis."""
    axes = torch.eye(width, dtype=torch.float64)
    means = torch.cat([axes[:directions], -axes[:directions]])
    offsets = spread * torch.cat([axes, -axes])
    return means[:, None] + offsets


@pytest.mark.parametrize("directions", [1, 3, 8])
def test_it_counts_the_directions_that_tell_images_apart(directions: int):
    assert lidar(designed(directions, 8)) == pytest.approx(directions, rel=1e-4)


def test_directions_that_views_blur_count_less():
    """Between-image variances are equal; whitening by the views' variance is what differs."""
    x = designed(2, 2)
    views = x - x.mean(1, keepdim=True)
    x = x.mean(1, keepdim=True) + views * torch.tensor([1.0, 3.0])
    images, count, _ = x.shape
    within = (views[0] * torch.tensor([1.0, 3.0])).square().sum(0) / (count - 1) + DELTA
    share = (1 / within) / (1 / within).sum()
    assert lidar(x) == pytest.approx(torch.exp(-(share * share.log()).sum()).item(), rel=1e-5)
    assert images == 4


@pytest.mark.parametrize("shape", [(30, 5, 6), (4, 3, 10)])
def test_it_equals_the_definition_by_a_generalised_eigenproblem(shape: tuple[int, int, int]):
    rng = np.random.default_rng(0)
    n, _, d = shape
    mixing = rng.normal(size=(d, d))
    x = (rng.normal(size=(n, 1, d)) + 0.5 * rng.normal(size=shape)) @ mixing
    between = np.cov(x.mean(1), rowvar=False)
    within = sum(np.cov(image, rowvar=False) for image in x) / n + DELTA * np.eye(d)
    values = np.clip(eigh(between, within, eigvals_only=True), 0, None)
    p = values / values.sum() + EPSILON
    expected = np.exp(-(p * np.log(p)).sum())
    assert lidar(torch.from_numpy(x)) == pytest.approx(expected, rel=1e-6)


def test_it_is_not_changed_by_a_linear_map_as_rankme_is():
    x = torch.randn(40, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = 100 * (x + 2 * torch.randn(40, 1, 5, generator=torch.Generator().manual_seed(1)))
    scaled = x * torch.tensor([1.0, 2, 5, 10, 30])
    assert lidar(scaled) == pytest.approx(lidar(x), rel=1e-4)


def test_features_that_are_all_alike_have_one():
    assert lidar(torch.ones(5, 3, 4)) == 1

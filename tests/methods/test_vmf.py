from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import cumulative_simpson
from scipy.special import ive
from scipy.stats import kstest, vonmises_fisher
from torch.nn.functional import normalize

from unlabel.methods.parts.vmf import log_bessel, log_density, sample

CASES = [(2, 0.5), (3, 10.0), (16, 16384.0), (256, 10.0), (256, 16384.0)]


def unit(rows: int, dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(rows, dim, generator=generator), dim=1)


@pytest.mark.parametrize(("order", "x"), [(0, 0.1), (0.5, 3.0), (7, 16384.0), (127, 10.0)])
def test_log_bessel_is_scipys(order, x):
    assert log_bessel(order, x) == pytest.approx(np.log(ive(order, x)) + x, rel=1e-12)


def test_log_bessel_wherever_tensors_are_made():
    expected = log_bessel(7, 10.0)
    with torch.device("meta"):
        assert log_bessel(7, 10.0) == expected


def test_log_bessel_where_scipys_underflows():
    assert ive(1023, 10.0) == 0
    # I_v(x) = (x / 2)^v / v! (1 + (x / 2)^2 / (v + 1) + ...)
    leading = 1023 * np.log(5) - np.log(np.arange(1, 1024)).sum()
    assert log_bessel(1023, 10.0) == pytest.approx(leading + np.log1p(25 / 1024), abs=1e-3)


@pytest.mark.parametrize(("dim", "kappa"), CASES)
def test_log_density_is_scipys(dim, kappa):
    mean, points = unit(4, dim), unit(4, dim, seed=1)
    points = normalize(mean + 0.1 * points, dim=1)
    ours = log_density(points, mean, kappa)
    for value, point, direction in zip(ours, points.double(), mean.double(), strict=True):
        direction = (direction / direction.norm()).numpy()
        point = (point / point.norm()).numpy()
        expected = vonmises_fisher(direction, kappa).logpdf(point)
        assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-5 + 2e-7 * kappa)


@pytest.mark.parametrize(("dim", "kappa"), CASES)
def test_cosines_of_samples_have_the_right_distribution(dim, kappa):
    torch.manual_seed(0)
    mean = unit(1, dim).expand(4000, dim)
    drawn = sample(mean, kappa)
    assert (drawn.norm(dim=1) - 1).abs().max() < 1e-4
    # In terms of the angle, whose density has no poles.
    angles = np.arccos((drawn.double() @ mean[0].double()).clamp(-1, 1).numpy())
    grid = np.linspace(0, min(np.pi, 60 / np.sqrt(kappa)), 20_001)[1:-1]
    log_p = kappa * (np.cos(grid) - 1) + (dim - 2) * np.log(np.sin(grid))
    below = cumulative_simpson(np.exp(log_p - log_p.max()), x=grid, initial=0)
    assert kstest(angles, lambda a: np.interp(a, grid, below / below[-1])).pvalue > 1e-3


def test_samples_lie_evenly_around_the_mean():
    torch.manual_seed(0)
    mean = unit(1, 8).expand(20_000, 8)
    drawn = sample(mean, 20.0)
    across = drawn - (drawn * mean).sum(1, keepdim=True) * mean
    assert across.mean(0).norm() < 0.02
    spread = torch.linalg.eigvalsh(across.T @ across / len(across))
    assert abs(spread[0]) < 1e-6  # nothing along the mean
    assert (spread[-1] / spread[1]).item() < 1.1


def test_gradients_reach_the_mean_alone():
    """Of a sample's own density there is none, of a fixed direction's product there is."""
    torch.manual_seed(0)
    free = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)

    def value(free, seed=3):
        torch.manual_seed(seed)
        return sample(normalize(free, dim=1), 30.0)

    assert torch.autograd.gradcheck(value, (free,))
    drawn = value(free)
    own = (drawn * normalize(free, dim=1)).sum()
    [gradient] = torch.autograd.grad(own, free, retain_graph=True)
    assert gradient.abs().max() < 1e-12

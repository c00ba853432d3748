"""The von Mises-Fisher distribution: directions scattered around a mean direction.

Its density on the unit sphere is C(D, kappa) exp(kappa <x, mean>), with
C(D, kappa) = kappa^(D/2 - 1) / ((2 pi)^(D/2) I_(D/2 - 1)(kappa)), I the modified Bessel function of
the first kind. Shapes: N rows, D features.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import normalize

TRIES = 16
"""Proposals a row, of which at least 0.65 are accepted: one row in 20 million finds none."""


def sample(mean: Tensor, kappa: float) -> Tensor:
    """One direction a row around ``mean`` (N, D), with gradients to it.

    The cosine to the mean is drawn by rejection (Wood, "Simulation of the von Mises Fisher
    distribution", 1994), the rest uniformly around the mean. All proposals are made at once, so
    that nothing waits for the device.
    """
    cosine = _draw_cosines(mean.detach(), kappa)[:, None]
    noise = torch.randn_like(mean)
    across = normalize(noise - (noise * mean).sum(1, keepdim=True) * mean, dim=1)
    return cosine * mean + (1 - cosine.square()).clamp(min=0).sqrt() * across


def log_density(points: Tensor, mean: Tensor, kappa: float) -> Tensor:
    """Log-density of each of ``points`` (N, D) given its mean (N, D), both of unit length: (N,)."""
    return kappa * ((points * mean).sum(1) - 1) + _log_peak(points.shape[1], kappa)


def _draw_cosines(like: Tensor, kappa: float) -> Tensor:
    """Cosines (N,) to the mean, with density proportional to e^(kappa w) (1 - w^2)^((D - 3) / 2).

    A proposal transforms one coordinate of a uniform direction.
    """
    d = like.shape[1] - 1
    b = d / (2 * kappa + math.hypot(2 * kappa, d))
    mode = (1 - b) / (1 + b)
    uniform = normalize(like.new_empty(TRIES, *like.shape).normal_(), dim=2)[..., 0]
    share = (1 + uniform) / 2
    cosines = (1 - (1 + b) * share) / (1 - (1 - b) * share)
    ratio = (1 - mode * cosines) / (1 - mode * mode)
    accepted = torch.rand_like(cosines).log() <= kappa * (cosines - mode) + d * ratio.log()
    first = accepted.to(torch.uint8).argmax(0, keepdim=True)
    return cosines.gather(0, first)[0].clamp(-1, 1)


@cache
def _log_peak(dim: int, kappa: float) -> float:
    """The log-density at the mean, log C(dim, kappa) + kappa."""
    order = dim / 2 - 1
    return (
        order * math.log(kappa) - dim / 2 * math.log(2 * math.pi) - log_bessel(order, kappa) + kappa
    )


def log_bessel(order: float, x: float) -> float:
    """log I_order(x) from its power series, which neither under- nor overflows, for x > 0."""
    k = torch.arange(math.ceil(x) + 100, dtype=torch.float64, device="cpu")
    terms = (2 * k + order) * math.log(x / 2) - (k + 1).lgamma() - (k + order + 1).lgamma()
    return float(terms.logsumexp(0))

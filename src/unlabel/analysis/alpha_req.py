"""alpha-ReQ: how fast the spectrum of features falls off."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FIRST, LAST = 11, 100
"""Ranks of the eigenvalues that the slope is fitted to: the head is left out, and the noise."""
FEWEST = 5
"""Eigenvalues that a slope needs (ours)."""
NOISE = 1e-12
"""Eigenvalues below this share of the largest are rounding."""


@torch.no_grad()
def alpha_req(features: Tensor) -> float:
    """Exponent of the power law ``j^-alpha`` that the eigenvalues of the covariance follow.

    The slope of a least-squares line through their logarithms at ranks 11 to 100 against that of
    the rank, weighted by one over the rank (Agrawal et al. 2022, alpha-ReQ, as their code fits it).
    A small exponent means many directions of like size; features are thought best near 1.

    Args:
        features: (n, D), any float type.

    Returns:
        The exponent; not a number where fewer than 5 of these ranks have an eigenvalue.
    """
    x = features.detach().to("cpu", torch.float64)
    x = x - x.mean(0)
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    values = torch.linalg.eigvalsh(gram).flip(0)
    values = values[: int((values > NOISE * values[0]).sum())][FIRST - 1 : LAST]
    if len(values) < FEWEST:
        return math.nan
    ranks = torch.arange(FIRST, FIRST + len(values), dtype=torch.float64)
    weights = 1 / ranks
    a, b = (_centred(v, weights) for v in (-ranks.log(), values.log()))
    return ((weights * a * b).sum() / (weights * a * a).sum()).item()


def _centred(values: Tensor, weights: Tensor) -> Tensor:
    """Less their weighted mean."""
    return values - (weights * values).sum() / weights.sum()

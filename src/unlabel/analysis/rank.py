"""Label-free quality of features: how many directions they use, and whether they collapsed.

Shapes: n images, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-7
"""Added to each share of the spectrum (RankMe, section 3)."""


@torch.no_grad()
def rankme(features: Tensor) -> float:
    """Effective rank of a feature matrix, between 1 and min(n, D).

    The `effective_rank` of the singular values, ``p = s / sum(s) + 1e-7``, of the uncentred
    features (Garrido et al. 2023, arXiv 2210.02885). Compare runs of one method only;
    about 25,000 images suffice for the largest widths.

    Args:
        features: (n, D), any float type, n and D at least 1.
    """
    x = features.detach().to("cpu", torch.float64)
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    # Rounding leaves tiny negative eigenvalues where the rank is not full.
    return effective_rank(torch.linalg.eigvalsh(gram).clamp(min=0).sqrt())


def effective_rank(spectrum: Tensor) -> float:
    """The exponential of the entropy of a spectrum's shares: how many values carry it.

    Args:
        spectrum: (k,), float64, none below zero; all zero counts as one.
    """
    total = spectrum.sum()
    if total == 0:
        return 1.0
    share = spectrum / total + EPSILON
    return torch.exp(-(share * share.log()).sum()).item()


@torch.no_grad()
def feature_std(features: Tensor) -> float:
    """Spread of unit-length features: 0 when all images look alike, 1 when evenly spread.

    The mean over features of the standard deviation over images, times sqrt(D), after each vector
    is made unit-length (Chen and He 2021, arXiv 2011.10566, section 4.1).

    Args:
        features: (n, D), any float type, n at least 2.
    """
    unit = F.normalize(features.detach().float(), dim=1)
    return (unit.std(0).mean() * unit.shape[1] ** 0.5).item()

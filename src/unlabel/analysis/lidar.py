"""LiDAR: how many directions tell images apart once what augmentations change is divided out."""

from __future__ import annotations

import torch
from torch import Tensor

from unlabel.analysis.rank import effective_rank

DELTA = 1e-4
"""Added to the within-image covariance's diagonal, so that it can be inverted."""


@torch.no_grad()
def lidar(features: Tensor) -> float:
    """Effective rank of the linear discriminant analysis of images, between 1 and min(n - 1, D).

    Each image is a class and its augmented views are the members: with ``B`` the covariance of the
    images' means and ``W`` the mean covariance within an image plus ``DELTA``, it is the
    `effective_rank` of the eigenvalues of ``W^-1/2 B W^-1/2`` (Thilak et al. 2023, arXiv
    2312.04000, section 4, with about 1,000 images of 50 views). It is meant for methods that match
    views; of others it says how far views of an image stay together.

    Args:
        features: (n, q, D), any float type: q views of each of n images, both at least 2.
    """
    x = features.detach().to("cpu", torch.float64)
    images, views, width = x.shape
    means = x.mean(1)
    between = _gram(means - means.mean(0)) / (images - 1)
    within = _gram((x - means[:, None]).flatten(0, 1)) / (images * (views - 1))
    factor = torch.linalg.cholesky(within + DELTA * torch.eye(width, dtype=torch.float64))
    half = torch.linalg.solve_triangular(factor, between, upper=False)
    whitened = torch.linalg.solve_triangular(factor, half.T, upper=False)
    return effective_rank(torch.linalg.eigvalsh((whitened + whitened.T) / 2).clamp(min=0))


def _gram(x: Tensor) -> Tensor:
    return x.T @ x

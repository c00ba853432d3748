"""Regression of directions: how far a prediction points from its target."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

from unlabel.methods.parts.precision import full_precision


def distances(predicted: Tensor, target: Tensor) -> Tensor:
    """Squared distance of the directions of each pair of rows (B, D), 2 - 2 cos: (B,), in [0, 4].

    No gradient flows into the target.
    """
    with full_precision(predicted):
        a, b = normalize(predicted.float(), dim=1), normalize(target.detach().float(), dim=1)
        return 2 - 2 * (a * b).sum(1)

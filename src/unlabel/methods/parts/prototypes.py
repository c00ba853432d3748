"""Prototypes: unit vectors that stand for clusters and are learnt with the network (SwAV)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from unlabel.methods.parts.held import held
from unlabel.methods.parts.precision import full_precision


class Prototypes(nn.Module):
    """``count`` directions of ``dim`` features, drawn evenly over the sphere at the start."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normalize(torch.randn(count, dim), dim=1))

    def forward(self, directions: Tensor, hold: bool = False) -> Tensor:
        """Cosines (N, count) of unit vectors (N, dim); ``hold`` keeps their gradient at 0."""
        with full_precision(directions):
            return directions.float() @ held(self.weight, hold).T

    @torch.no_grad()
    def normalise(self) -> None:
        """Give every prototype the length 1 again, after an optimiser moved it."""
        self.weight.copy_(normalize(self.weight, dim=1))

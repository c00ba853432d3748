"""DINO's head: a bottleneck, its direction, and that direction's products with learnt ones."""

from __future__ import annotations

import math

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.nn.functional import normalize

from unlabel.methods.parts.held import held
from unlabel.methods.parts.precision import full_precision


class DINOHead(nn.Module):
    """Three linear layers with GELU, then a last layer whose weight has rows of a given length.

    The last layer is weight-normed: what is trained are its rows' directions and, unless
    ``norm_last_layer`` fixes it at 1, their length (DINO, appendix C, and its code).

    Args:
        dim: features that come in.
        hidden: width of the two hidden layers.
        bottleneck: features whose direction meets the last layer.
        out: outputs.
        batch_norm: whether batch norms follow the hidden layers.
        norm_last_layer: whether the last layer's rows keep the length 1.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        bottleneck: int,
        out: int,
        batch_norm: bool = False,
        norm_last_layer: bool = True,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (dim, hidden):
            norm = [nn.BatchNorm1d(hidden)] if batch_norm else []
            layers += [nn.Linear(inputs, hidden), *norm, nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, bottleneck))
        self.mlp.apply(_initialise)
        self.directions = nn.Parameter(torch.empty(out, bottleneck))
        nn.init.kaiming_uniform_(self.directions, a=math.sqrt(5))  # as torch's linear layers start
        self.lengths = nn.Parameter(torch.ones(out, 1), requires_grad=not norm_last_layer)

    def forward(self, features: Tensor, hold: bool = False) -> Tensor:
        """Logits (N, out) of features (N, dim); ``hold`` keeps the last layer's gradient at 0."""
        bottleneck = self.mlp(features)
        with full_precision(bottleneck):
            directions, lengths = held(self.directions, hold), held(self.lengths, hold)
            weight = lengths * normalize(directions, dim=1)
            return normalize(bottleneck.float(), dim=1) @ weight.T


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Linear):
        trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)

"""What stands between a backbone and a loss: projectors and predictors, and encoders with one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from unlabel.backbones.base import Backbone


def mlp(
    widths: Sequence[int], *, last_norm: bool = False, affine: bool = True, last_bias: bool = True
) -> nn.Sequential:
    """Linear layers with batch norm and ReLU between them.

    Args:
        widths: of the input, of each hidden layer, and of the output.
        last_norm: whether a batch norm follows the last layer, which then has no bias.
        affine: whether that last norm has a scale and a shift.
        last_bias: whether the last layer has a bias.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(True)]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=last_bias and not last_norm))
    if last_norm:
        layers.append(nn.BatchNorm1d(widths[-1], affine=affine))
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """A backbone and its projector as one network, to encode with or to make a teacher of."""

    def __init__(self, backbone: Backbone, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W), normalised, to (B, D)."""
        return self.projector(self.backbone.embed(images))

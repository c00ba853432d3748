"""BYOL: predict what a slowly following copy of the network makes of the other view.

Grill et al., "Bootstrap Your Own Latent" (arXiv 2006.07733).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from unlabel.backbones.base import Backbone
from unlabel.config import OptimConfig, Settings
from unlabel.data.spec import Batch
from unlabel.methods.base import DataInfo, Losses, Method, Progress
from unlabel.methods.parts.heads import Encoder, mlp
from unlabel.methods.parts.momentum import SHORT_RUN, target_decay
from unlabel.methods.parts.multicrop import ViewOptions, encode, large_crops, view_spec
from unlabel.methods.parts.regression import distances
from unlabel.methods.parts.teacher import Teacher


class BYOLOptions(ViewOptions):
    """Options of BYOL; the defaults are the published ones."""

    hidden: int = Field(4096, ge=1)
    """Width of the hidden layers of projector and predictor."""
    out: int = Field(256, ge=2)
    """Features that are predicted."""
    decay: float = Field(0.99, gt=0, lt=1)
    """Of the target's weights at the start, rising to 1 along a cosine: 0.97 for 40 epochs, 0.99
    for 100 and 300, 0.996 for 1,000. Shorter runs begin lower; see ``momentum.start_decay``."""


class BYOL(Method):
    """Regression of the target's projection of one view from the online network's of the other.

    The recipe is that of the published 300 epochs at 4,096 images: LARS with learning rate 0.3 at
    256 images, weight decay 1e-6, 10 warm-up epochs, cosine.
    """

    name: ClassVar[str] = "byol"
    recipe: ClassVar[OptimConfig] = OptimConfig(
        optimizer="lars", lr=0.3, betas=(0.9, 0.999), weight_decay=1e-6, warmup=10 / 300
    )
    target_moves: ClassVar[bool] = True
    horizon: ClassVar[bool] = True
    short_run: ClassVar[Mapping[str, Any]] = SHORT_RUN
    Options: ClassVar[type[Settings]] = BYOLOptions

    def __init__(self, backbone: Backbone, options: BYOLOptions, data: DataInfo) -> None:
        super().__init__(backbone, options, data)
        self.options = options
        self.spec = view_spec(options, backbone, data)
        self.projector = mlp([backbone.dim, options.hidden, options.out], last_bias=False)
        self.predictor = mlp([options.out, options.hidden, options.out], last_bias=False)
        self.target = Teacher(Encoder(backbone, self.projector))

    def forward(self, batch: Batch, progress: Progress) -> Losses:
        """Both directions, added."""
        crops = large_crops(batch)
        predicted = encode(self.predictor, encode(Encoder(self.backbone, self.projector), crops))
        with torch.no_grad():
            first, second = encode(self.target.network, crops)
        loss = regression(predicted[0], second) + regression(predicted[1], first)
        return Losses(loss)

    def after_step(self, progress: Progress) -> None:
        """Move the target towards the online network."""
        decay = target_decay(self.options.decay, progress)
        online = Encoder(self.backbone, self.projector)
        self.target.update(online, decay, copy_buffers=False)


def regression(predicted: Tensor, target: Tensor) -> Tensor:
    """Squared distance of the directions of rows (B, D), averaged over rows."""
    return distances(predicted, target).mean()

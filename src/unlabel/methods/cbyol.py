"""C-BYOL: BYOL whose prediction passes through a noisy code that is kept small.

Lee et al., "Compressive Visual Representations" (arXiv 2109.12909).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from unlabel.backbones.base import Backbone
from unlabel.config import OptimConfig, Settings
from unlabel.data.spec import Batch
from unlabel.methods.base import DataInfo, Losses, Method, Progress
from unlabel.methods.byol import regression
from unlabel.methods.parts.heads import Encoder, mlp
from unlabel.methods.parts.momentum import SHORT_RUN, target_decay
from unlabel.methods.parts.multicrop import ViewOptions, encode, large_crops, view_spec
from unlabel.methods.parts.precision import full_precision
from unlabel.methods.parts.teacher import Teacher
from unlabel.methods.parts.vmf import log_density, sample


class CBYOLOptions(ViewOptions):
    """Options of C-BYOL; the defaults are those of its code for 300 epochs."""

    hidden: int = Field(4096, ge=1)
    """Width of the hidden layers of projector, predictor and backward encoder."""
    out: int = Field(256, ge=2)
    """Features of the projection, of the code z and of the prediction."""
    weight: float = Field(5.0, gt=0)
    """Of the regression: 5 for 300 epochs, 2 for 1,000."""
    beta: float = Field(1.0, ge=0)
    """Of the rate, which is what the code z costs: compression."""
    kappa_e: float = Field(16384.0, gt=0, le=1e6)
    """Concentration of z around the online network's prediction (the encoder e)."""
    kappa_b: float = Field(10.0, gt=0, le=1e6)
    """Concentration of z around what the target's projection suggests (the backward encoder b)."""
    decay: float = Field(0.99, gt=0, lt=1)
    """Of the target's weights at the start, rising to 1 along a cosine: 0.99 for 300 epochs, 0.996
    for 1,000. Shorter runs begin lower; see ``momentum.start_decay``."""


class CBYOL(Method):
    """BYOL's regression from a code z ~ e(z | x), plus beta times log e(z | x) - log b(z | y).

    The second term bounds what z knows of the view x that the target's projection y does not tell.
    Both are von Mises-Fisher distributions. The recipe is that of the published 300 epochs at 4,096
    images: LARS with learning rate 0.35 at 256, weight decay 1e-6, 10 warm-up epochs, cosine.
    """

    name: ClassVar[str] = "cbyol"
    recipe: ClassVar[OptimConfig] = OptimConfig(
        optimizer="lars", lr=0.35, betas=(0.9, 0.999), weight_decay=1e-6, warmup=10 / 300
    )
    target_moves: ClassVar[bool] = True
    horizon: ClassVar[bool] = True
    short_run: ClassVar[Mapping[str, Any]] = SHORT_RUN
    Options: ClassVar[type[Settings]] = CBYOLOptions

    def __init__(self, backbone: Backbone, options: CBYOLOptions, data: DataInfo) -> None:
        super().__init__(backbone, options, data)
        self.options = options
        self.spec = view_spec(options, backbone, data)
        self.projector = mlp([backbone.dim, options.hidden, options.out], last_bias=False)
        self.predictor = mlp([options.out, options.hidden, options.out], last_bias=False)
        self.decoder = nn.Linear(options.out, options.out, bias=False)
        self.backward_encoder = mlp([options.out, options.hidden, options.out], last_bias=False)
        self.target = Teacher(Encoder(backbone, self.projector))

    def forward(self, batch: Batch, progress: Progress) -> Losses:
        """Distances and rates of both directions, added.

        The prediction made from one view is compared with the target's projection of the other; b
        sees the target's projection of the same view, as in the paper's code.
        """
        crops = large_crops(batch)
        online = encode(Encoder(self.backbone, self.projector), crops)
        means = directions(self.predictor(torch.cat(online)))
        with torch.no_grad():
            targets = encode(self.target.network, crops)
        codes = self._draw(means)
        first, second = self.decoder(codes).chunk(2)
        distance = regression(first, targets[1]) + regression(second, targets[0])
        expected = directions(self.backward_encoder(directions(torch.cat(targets))))
        rate = 2 * self._rate(codes, means, expected).mean()
        total = self.options.weight * distance + self.options.beta * rate
        return Losses(total, {"distance": distance.detach(), "rate": rate.detach()})

    def _draw(self, means: Tensor) -> Tensor:
        """Codes z around ``means`` (2B, D) while training, the means themselves otherwise."""
        if not self.training:
            return means
        with full_precision(means):
            return sample(means, self.options.kappa_e)

    def _rate(self, codes: Tensor, means: Tensor, expected: Tensor) -> Tensor:
        """log e(z | x) - log b(z | y) in nats, a row."""
        with full_precision(codes):
            known = log_density(codes, means, self.options.kappa_e)
            return known - log_density(codes, expected, self.options.kappa_b)

    def after_step(self, progress: Progress) -> None:
        """Move the target towards the online network."""
        decay = target_decay(self.options.decay, progress)
        online = Encoder(self.backbone, self.projector)
        self.target.update(online, decay, copy_buffers=False)


def directions(rows: Tensor) -> Tensor:
    """Rows (N, D) as float32 vectors of length 1."""
    return normalize(rows.float(), dim=1)

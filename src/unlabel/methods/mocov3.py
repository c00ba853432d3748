"""MoCo v3: find what a slowly following network makes of the other view among the whole batch.

Chen, Xie and He, "An Empirical Study of Training Self-Supervised Vision Transformers"
(arXiv 2104.02057).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from unlabel.backbones.base import Backbone
from unlabel.config import OptimConfig, Scale, Settings
from unlabel.data.spec import Batch
from unlabel.errors import ConfigError
from unlabel.methods.base import DataInfo, Losses, Method, Progress
from unlabel.methods.parts.contrast import match_keys
from unlabel.methods.parts.heads import Encoder, mlp
from unlabel.methods.parts.momentum import SHORT_CONTRASTIVE_RUN, target_decay
from unlabel.methods.parts.multicrop import (
    Colours,
    ViewOptions,
    encode,
    large_crops,
    view_spec,
)
from unlabel.methods.parts.teacher import Teacher


class MoCoV3Options(ViewOptions):
    """Options of MoCo v3; the defaults are those of its code for ResNet-50."""

    colours: Colours = "mocov3"
    scale: Scale = (0.2, 1.0)
    """Share of the image's area that a crop covers; 0.08 to 1 for ViTs."""
    hidden: int = Field(4096, ge=1)
    """Width of the hidden layers of projector and predictor."""
    out: int = Field(256, ge=2)
    """Features that are compared."""
    layers: int = Field(2, ge=2)
    """Linear layers of the projector; 3 for ViTs."""
    predictor_norm: bool = False
    """Whether the predictor, like the projector, ends in a batch norm; on for ViTs."""
    freeze_patches: bool = False
    """Leave a ViT's patch embedding as it starts, which keeps training stable; on for ViTs."""
    temperature: float = Field(1.0, gt=0)
    """What cosines are divided by; 0.2 for ViTs."""
    decay: float = Field(0.99, gt=0, lt=1)
    """Of the target's weights at the start, rising to 1 along a cosine: 0.99 for 100 and 300
    epochs, 0.996 for 1,000. Shorter runs begin lower; see ``momentum.start_decay``."""


class MoCoV3(Method):
    """InfoNCE of predictions against the target's projections of the other view, both ways.

    The recipe is that of the published 300 epochs of ResNet-50 at 4,096 images: LARS with learning
    rate 0.3 at 256 images, weight decay 1e-6, 10 warm-up epochs, cosine. ViTs were trained with
    AdamW instead: learning rate 1.5e-4, weight decay 0.1, 40 warm-up epochs.
    """

    name: ClassVar[str] = "mocov3"
    recipe: ClassVar[OptimConfig] = OptimConfig(
        optimizer="lars", lr=0.3, betas=(0.9, 0.999), weight_decay=1e-6, warmup=10 / 300
    )
    horizon: ClassVar[bool] = True
    short_run: ClassVar[Mapping[str, Any]] = SHORT_CONTRASTIVE_RUN
    Options: ClassVar[type[Settings]] = MoCoV3Options

    def __init__(self, backbone: Backbone, options: MoCoV3Options, data: DataInfo) -> None:
        super().__init__(backbone, options, data)
        self.options = options
        self.spec = view_spec(options, backbone, data)
        if options.freeze_patches:
            _patch_embedding(backbone).requires_grad_(False)
        inner = [options.hidden] * (options.layers - 1)
        self.projector = mlp([backbone.dim, *inner, options.out], last_norm=True, affine=False)
        self.predictor = mlp(
            [options.out, options.hidden, options.out],
            last_norm=options.predictor_norm,
            affine=False,
            last_bias=False,
        )
        self.target = Teacher(Encoder(backbone, self.projector))

    def forward(self, batch: Batch, progress: Progress) -> Losses:
        """Both directions, added, each times twice the temperature as in the paper's code."""
        crops = large_crops(batch)
        queries = encode(self.predictor, encode(Encoder(self.backbone, self.projector), crops))
        with torch.no_grad():
            first, second = encode(self.target.network, crops)
        temperature = self.options.temperature
        there, found = match_keys(queries[0], second, temperature)
        back, found_back = match_keys(queries[1], first, temperature)
        accuracy = (found + found_back) / 2
        return Losses(2 * temperature * (there + back), {"match_accuracy": accuracy})

    def after_step(self, progress: Progress) -> None:
        """Move the target towards the online network."""
        decay = target_decay(self.options.decay, progress)
        online = Encoder(self.backbone, self.projector)
        self.target.update(online, decay, copy_buffers=False)


def _patch_embedding(backbone: Backbone) -> nn.Module:
    patches = getattr(backbone.net, "patch_embed", None)
    if patches is None:
        raise ConfigError("freeze_patches: a ResNet has no patch embedding; leave it off")
    return patches

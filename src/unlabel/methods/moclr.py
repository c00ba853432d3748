"""MoCLR: SimCLR whose keys come from a slowly following network; the base of DnC.

Tian et al., "Divide and Contrast" (2021). Of the paper we know that MoCLR is SimCLR with a momentum
encoder and larger heads; the rest is SimCLR's and BYOL's, see the method card.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field

from unlabel.backbones.base import Backbone
from unlabel.config import OptimConfig, Settings
from unlabel.data.spec import Batch
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


class MoCLROptions(ViewOptions):
    """Options of MoCLR. The paper's values are not at hand: see the method card."""

    colours: Colours = "simclr"
    hidden: int = Field(4096, ge=1)
    """Width of the projector's hidden layer (BYOL's; the paper's is larger than SimCLR's)."""
    out: int = Field(256, ge=2)
    """Features that are compared, likewise."""
    temperature: float = Field(0.1, gt=0)
    """What cosines are divided by (SimCLR's)."""
    decay: float = Field(0.99, gt=0, lt=1)
    """Of the target's weights at the start, rising to 1 along a cosine (BYOL's for 100 and 300
    epochs). Shorter runs begin lower; see ``momentum.start_decay``."""


class MoCLR(Method):
    """NT-Xent of the online network's projections against keys of the target.

    A query's candidates are the target's projections of both views, all but that of its own view:
    SimCLR's. The recipe is SimCLR's for 4,096 images.
    """

    name: ClassVar[str] = "moclr"
    recipe: ClassVar[OptimConfig] = OptimConfig(
        optimizer="lars", lr=0.3, betas=(0.9, 0.999), weight_decay=1e-6, warmup=0.01
    )
    horizon: ClassVar[bool] = True
    short_run: ClassVar[Mapping[str, Any]] = SHORT_CONTRASTIVE_RUN
    Options: ClassVar[type[Settings]] = MoCLROptions

    def __init__(self, backbone: Backbone, options: MoCLROptions, data: DataInfo) -> None:
        super().__init__(backbone, options, data)
        self.options = options
        self.spec = view_spec(options, backbone, data)
        self.projector = mlp([backbone.dim, options.hidden, options.out])
        self.target = Teacher(Encoder(backbone, self.projector))

    def forward(self, batch: Batch, progress: Progress) -> Losses:
        """Both directions, averaged."""
        crops = large_crops(batch)
        queries = encode(Encoder(self.backbone, self.projector), crops)
        with torch.no_grad():
            keys = encode(self.target.network, crops)
        temperature = self.options.temperature
        there, found = match_keys(queries[0], keys[1], temperature, same=keys[0])
        back, found_back = match_keys(queries[1], keys[0], temperature, same=keys[1])
        return Losses((there + back) / 2, {"match_accuracy": (found + found_back) / 2})

    def after_step(self, progress: Progress) -> None:
        """Move the target towards the online network."""
        decay = target_decay(self.options.decay, progress)
        online = Encoder(self.backbone, self.projector)
        self.target.update(online, decay, copy_buffers=False)

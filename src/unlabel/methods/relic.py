"""RELIC: contrast two views of an image, and make the likelihoods not depend on the views.

Mitrovic et al., "Representation Learning via Invariant Causal Mechanisms" (arXiv 2010.07922).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from unlabel.backbones.base import Backbone
from unlabel.config import OptimConfig, Settings
from unlabel.data.spec import Batch
from unlabel.methods.base import DataInfo, Losses, Method, Progress
from unlabel.methods.parts.gather import from_all
from unlabel.methods.parts.heads import Encoder, mlp
from unlabel.methods.parts.invariance import (
    contrast_and_invariance,
    draw_candidates,
    log_likelihoods,
    unit,
)
from unlabel.methods.parts.momentum import SHORT_RUN, target_decay
from unlabel.methods.parts.multicrop import ViewOptions, encode, large_crops, view_spec
from unlabel.methods.parts.teacher import Teacher


class RELICOptions(ViewOptions):
    """Options of RELIC. The paper's hyperparameters are not at hand: see the method card."""

    critic: tuple[Annotated[int, Field(ge=1)], ...] = (4096, 2048, 1024)
    """Widths of the critic's hidden layers (from memory; not checked against the paper)."""
    out: int = Field(512, ge=2)
    """Features that are compared, likewise."""
    temperature: float = Field(0.2, gt=0)
    """What cosines are divided by (RELICv2's default here; not given)."""
    invariance: float = Field(1.0, ge=0)
    """Weight of the KL term (alpha; not given)."""
    decay: float = Field(0.996, gt=0, lt=1)
    """Of the target's weights at the start, rising to 1 along a cosine (BYOL's for 1,000 epochs).
    Shorter runs begin lower; see ``momentum.start_decay``."""


class RELIC(Method):
    """Two views: the online network's against the target's of the other view, both ways.

    p_12, with view 1 online and view 2 from the target, and p_21 are likelihoods over all images of
    the batch. The loss is their contrastive terms plus the KL of each from the other. The recipe is
    BYOL's for 1,000 epochs.
    """

    name: ClassVar[str] = "relic"
    recipe: ClassVar[OptimConfig] = OptimConfig(
        optimizer="lars", lr=0.2, betas=(0.9, 0.999), weight_decay=1.5e-6, warmup=0.01
    )
    horizon: ClassVar[bool] = True
    short_run: ClassVar[Mapping[str, Any]] = SHORT_RUN
    Options: ClassVar[type[Settings]] = RELICOptions

    def __init__(self, backbone: Backbone, options: RELICOptions, data: DataInfo) -> None:
        super().__init__(backbone, options, data)
        self.options = options
        self.spec = view_spec(options, backbone, data)
        self.projector = mlp([backbone.dim, *options.critic, options.out], last_bias=False)
        self.target = Teacher(Encoder(backbone, self.projector))

    def forward(self, batch: Batch, progress: Progress) -> Losses:
        """Contrast and invariance of both directions, averaged."""
        crops = large_crops(batch)
        online = [unit(z) for z in encode(Encoder(self.backbone, self.projector), crops)]
        with torch.no_grad():
            target = [from_all(unit(z)) for z in encode(self.target.network, crops)]
        there = self._likelihoods(online[0], target[1])
        back = self._likelihoods(online[1], target[0])
        terms = [contrast_and_invariance(there, back), contrast_and_invariance(back, there)]
        contrast, invariance = (torch.stack(pair).mean() for pair in zip(*terms, strict=True))
        total = contrast + self.options.invariance * invariance
        return Losses(total, {"contrast": contrast.detach(), "invariance": invariance.detach()})

    def _likelihoods(self, online: Tensor, target: Tensor) -> Tensor:
        """Log-likelihoods (B, G) of the target's rows (G, D), each row's own first."""
        everyone = draw_candidates(len(online), len(target), None, seed=0).to(online.device)
        return log_likelihoods(online, target, everyone, self.options.temperature)

    def after_step(self, progress: Progress) -> None:
        """Move the target towards the online network."""
        decay = target_decay(self.options.decay, progress)
        online = Encoder(self.backbone, self.projector)
        self.target.update(online, decay, copy_buffers=False)

"""DINO: learn from small crops what a slowly following teacher says of large ones.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (arXiv 2104.14294).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from unlabel.backbones.base import Backbone
from unlabel.config import OptimConfig, Scale, Settings
from unlabel.data.spec import Batch
from unlabel.methods.base import DataInfo, Losses, Method, Progress
from unlabel.methods.parts.dino_head import DINOHead
from unlabel.methods.parts.distillation import Distillation
from unlabel.methods.parts.momentum import target_decay
from unlabel.methods.parts.multicrop import (
    Colours,
    MultiCropOptions,
    encode,
    large_crops,
    small_crops,
    view_spec,
)
from unlabel.methods.parts.soft_targets import match_other_crops
from unlabel.methods.parts.teacher import Teacher

OUT, FEWEST = 65_536, 4_096
"""Outputs of the head as published, for ImageNet-1k, and the fewest by default (ours)."""
IMAGES_EACH = 15
"""Images to an output between them (ours): 65,536 from a million images."""


class DINOOptions(MultiCropOptions):
    """Options of DINO; the defaults are those of its code, which are for ViT-S/16."""

    colours: Colours = "dino"
    small: int = Field(8, ge=0)
    """Small crops of each image."""
    scale: Scale = (0.4, 1.0)
    """Share of the image's area that a large crop covers; 0.14 to 1 for ResNets, and without small
    crops."""
    small_scale: Scale = (0.05, 0.4)
    """Share of the image's area that a small crop covers; 0.05 to 0.14 for ResNets."""
    hidden: int = Field(2048, ge=1)
    """Width of the head's two hidden layers."""
    bottleneck: int = Field(256, ge=1)
    """Features of the head before its last layer."""
    out: int | None = Field(None, ge=2)
    """Outputs of the head. When not given: the published 65,536 from a million images, one for 15
    images below that, as a power of two, and at least 4,096 (ours)."""
    batch_norm: bool = False
    """Whether the head's hidden layers have batch norms."""
    norm_last_layer: bool = True
    """Whether the rows of the head's last layer keep the length 1; training them is better for
    ViT-S and can be unstable (DINO's code)."""
    student_temperature: float = Field(0.1, gt=0)
    """What the student's logits are divided by."""
    teacher_temperature: float = Field(0.04, gt=0)
    """What the teacher's are divided by; 0.07 in the longer published runs."""
    teacher_temperature_start: float = Field(0.04, gt=0)
    """What they are divided by at the start."""
    temperature_warmup: float = Field(0.1, ge=0, le=1)
    """Share of the run over which the teacher's temperature goes from the one to the other: 30 of
    300 epochs."""
    centre_momentum: float = Field(0.9, ge=0, lt=1)
    """Of the running mean that is taken out of the teacher's logits."""
    decay: float = Field(0.996, gt=0, lt=1)
    """Of the teacher's weights at the start, rising to 1 along a cosine. Shorter runs begin lower;
    see ``momentum.start_decay``."""
    freeze: float = Field(0.01, ge=0, le=1)
    """Share of the run during which the head's last layer stays as it starts: 1 of 100 epochs."""


class DINO(Method):
    """Cross-entropy of every crop with the teacher's view of every other large crop.

    The teacher is the network that is watched and exported. The recipe is that of the published 100
    epochs: AdamW (0.9, 0.999) with learning rate 5e-4 at 256 images, 10 warm-up epochs, cosine to
    1e-6, weight decay rising from 0.04 to 0.4, gradients clipped at 3.
    """

    name: ClassVar[str] = "dino"
    recipe: ClassVar[OptimConfig] = OptimConfig(
        lr=5e-4,
        min_lr=1e-6,
        betas=(0.9, 0.999),
        weight_decay=0.04,
        weight_decay_end=0.4,
        clip_grad=3.0,
        warmup=0.1,
    )
    drop_path: ClassVar[float] = 0.1
    target_moves: ClassVar[bool] = True
    horizon: ClassVar[bool] = True
    short_run: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "options.batch_norm": True,
            "options.bottleneck": 64,
            "options.out": 2048,
            "options.centre_momentum": 0.5,
            "options.scale": (0.2, 1.0),
            "optim.lr": 2e-3,
        }
    )
    Options: ClassVar[type[Settings]] = DINOOptions

    average: Teacher

    def __init__(self, backbone: Backbone, options: DINOOptions, data: DataInfo) -> None:
        super().__init__(backbone, options, data)
        self.options = options
        self.spec = view_spec(options, backbone, data)
        self.average = Teacher(backbone)
        self.views = distillation(backbone.dim, options, data)

    def forward(self, batch: Batch, progress: Progress) -> Losses:
        """The loss, averaged over pairs of crops."""
        large, small = large_crops(batch), small_crops(batch)
        student = encode(self.backbone.embed, large) + encode(self.backbone.embed, small)
        with torch.no_grad():
            teacher = encode(self.exported.embed, large)
        return self.match_views(student, teacher, progress)

    def match_views(
        self, student: list[Tensor], teacher: list[Tensor], progress: Progress
    ) -> Losses:
        """The loss from vectors (B, D): the student's of every crop, the teacher's of large ones.

        ``teacher_entropy``, in nats, is near zero or near the logarithm of the number of outputs
        where training collapses.
        """
        options = self.options
        logits = self.views.head(torch.cat(student), hold=progress.fraction < options.freeze)
        temperature = teacher_temperature(options, progress)
        targets = self.views.targets(torch.cat(teacher), temperature)
        loss = match_other_crops(
            logits.unflatten(0, (len(student), -1)),
            targets.unflatten(0, (len(teacher), -1)),
            options.student_temperature,
        )
        return Losses(loss, {"teacher_entropy": torch.special.entr(targets).sum(1).mean()})

    def after_step(self, progress: Progress) -> None:
        """Move the teacher and the centre of its logits."""
        decay = self.decay(progress)
        self.average.update(self.backbone, decay, copy_buffers=False)
        self.views.update(decay)

    def decay(self, progress: Progress) -> float:
        """What the teacher keeps of its weights in this step."""
        return target_decay(self.options.decay, progress)


def distillation(dim: int, options: DINOOptions, data: DataInfo) -> Distillation:
    """A head with its teacher and its centre, as the options say."""
    head = DINOHead(
        dim,
        options.hidden,
        options.bottleneck,
        options.out or outputs(data.images),
        options.batch_norm,
        options.norm_last_layer,
    )
    return Distillation(head, options.centre_momentum)


def teacher_temperature(options: DINOOptions, progress: Progress) -> float:
    """What the teacher's logits are divided by: linear over the warm-up, then constant."""
    start, end = options.teacher_temperature_start, options.teacher_temperature
    if progress.fraction >= options.temperature_warmup:
        return end
    return start + (end - start) * progress.fraction / options.temperature_warmup


def outputs(images: int) -> int:
    """Outputs of the head for a set of so many images; see ``DINOOptions.out``."""
    return min(OUT, max(FEWEST, 1 << max(1, images // IMAGES_EACH).bit_length() - 1))

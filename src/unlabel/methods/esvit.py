"""EsViT: DINO for whole crops, and again for the regions that two crops have in common.

Li et al., "Efficient Self-supervised Vision Transformers for Representation Learning"
(arXiv 2106.09785).
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from unlabel.backbones.base import Backbone
from unlabel.config import Settings
from unlabel.data.spec import Batch
from unlabel.methods.base import DataInfo, Losses, Progress
from unlabel.methods.dino import DINO, DINOOptions, distillation, teacher_temperature
from unlabel.methods.parts.multicrop import large_crops, small_crops
from unlabel.methods.parts.regions import match_regions

PART = 32
"""Held-out images that are looked at together, as every cell of every crop has its own logits."""


class EsViTOptions(DINOOptions):
    """Options of EsViT; the defaults are those of the published 300 epochs of Swin-T."""

    norm_last_layer: bool = False
    """Whether the rows of the heads' last layers keep the length 1."""
    teacher_temperature: float = Field(0.07, gt=0)
    """What the teacher's logits are divided by, after 30 of 300 epochs."""
    freeze: float = Field(1 / 300, ge=0, le=1)
    """Share of the run during which the heads' last layers stay as they start: 1 of 300 epochs."""
    region_weight: float = Field(0.5, ge=0, le=1)
    """Weight of the regions' loss; the views' has the rest."""


class EsViT(DINO):
    """DINO's loss of views, and that of regions with a head and a centre of their own.

    The recipe is that of the published 300 epochs: DINO's, with 10 warm-up epochs.
    """

    name: ClassVar[str] = "esvit"
    recipe = DINO.recipe.model_copy(update={"warmup": 10 / 300})
    Options: ClassVar[type[Settings]] = EsViTOptions

    def __init__(self, backbone: Backbone, options: EsViTOptions, data: DataInfo) -> None:
        super().__init__(backbone, options, data)
        self.region_weight = options.region_weight
        self.regions = distillation(backbone.dim, options, data)

    def forward(self, batch: Batch, progress: Progress) -> Losses:
        """Both losses, weighted; each is averaged over pairs of crops."""
        large, small = large_crops(batch), small_crops(batch)
        student = _views_and_regions(self.backbone, large)
        student += _views_and_regions(self.backbone, small)
        with torch.no_grad():
            teacher = _views_and_regions(self.exported, large)
        views = self.match_views([v for v, _ in student], [v for v, _ in teacher], progress)
        regions = self._match_regions([r for _, r in student], [r for _, r in teacher], progress)
        total = (1 - self.region_weight) * views.total + self.region_weight * regions
        parts = {"view_loss": views.total.detach(), "region_loss": regions.detach()}
        return Losses(total, views.scalars | parts)

    def _match_regions(
        self, student: list[Tensor], teacher: list[Tensor], progress: Progress
    ) -> Tensor:
        """The loss of the regions (B, R, D) of the student's crops and the teacher's large ones."""
        options = self.options
        temperature = teacher_temperature(options, progress)
        said = self.regions.targets(torch.cat(teacher).flatten(0, 1), temperature)
        targets = list(zip(teacher, _by_crop(said, teacher), strict=True))
        rows = torch.cat([regions.flatten(0, 1) for regions in student])
        logits = _by_crop(self.regions.head(rows, hold=progress.fraction < options.freeze), student)
        losses = [
            match_regions(
                logits[i], regions, targets[:i] + targets[i + 1 :], options.student_temperature
            )
            for i, regions in enumerate(student)
        ]
        return torch.stack(losses).sum() / (len(teacher) * (len(student) - 1))

    def after_step(self, progress: Progress) -> None:
        """Move the teacher and both centres."""
        super().after_step(progress)
        self.regions.update(self.decay(progress))

    @torch.no_grad()
    def validation_loss(self, batch: Batch, progress: Progress) -> Tensor:
        """The loss on held-out images, a few at a time."""
        images = len(batch.ids)
        total = torch.zeros((), device=next(iter(batch.views.values())).device)
        for start in range(0, images, PART):
            views = {name: crops[start : start + PART] for name, crops in batch.views.items()}
            part = replace(batch, views=views, ids=batch.ids[start : start + PART])
            total += self(part, progress).total * len(part.ids)
        return total / images


def _views_and_regions(backbone: Backbone, crops: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Vector (B, D) and regions (B, R, D), the cells of the map, of crops of one size."""
    if not crops:
        return []
    vectors, maps = backbone.embed_and_map(torch.cat(crops))
    regions = maps.flatten(2).mT
    return list(zip(vectors.chunk(len(crops)), regions.chunk(len(crops)), strict=True))


def _by_crop(rows: Tensor, crops: list[Tensor]) -> list[Tensor]:
    """Rows (sum of B * R, K) of all crops' regions as each crop's (B, R, K)."""
    parts = rows.split([crop.shape[0] * crop.shape[1] for crop in crops])
    return [part.unflatten(0, crop.shape[:2]) for part, crop in zip(parts, crops, strict=True)]

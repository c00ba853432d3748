"""SwAV: predict from one crop the cluster that another crop of the same image was given.

Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments"
(arXiv 2006.09882).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from unlabel.backbones.base import Backbone
from unlabel.config import OptimConfig, Scale, Settings
from unlabel.data.spec import Batch
from unlabel.methods.base import DataInfo, Losses, Method, Progress
from unlabel.methods.parts.gather import from_all, processes
from unlabel.methods.parts.heads import mlp
from unlabel.methods.parts.multicrop import (
    Colours,
    MultiCropOptions,
    encode,
    large_crops,
    small_crops,
    view_spec,
)
from unlabel.methods.parts.prototypes import Prototypes
from unlabel.methods.parts.queue import Queue
from unlabel.methods.parts.sinkhorn import sinkhorn
from unlabel.methods.parts.soft_targets import match_other_crops

PROTOTYPES = 3000
"""The published number of prototypes, for ImageNet-1k."""
IMAGES_EACH, FEWEST = 100, 30
"""Images to a prototype in small sets, and the fewest prototypes (ours). Lightly's benchmark has
512 prototypes for the 50,000 images of CIFAR-10."""


class SwAVOptions(MultiCropOptions):
    """Options of SwAV; the defaults are those of its code for 100 epochs at 4,096 images."""

    colours: Colours = "swav"
    small: int = Field(6, ge=0)
    """Small crops of each image."""
    scale: Scale = (0.14, 1.0)
    """Share of the image's area that a large crop covers."""
    hidden: int = Field(2048, ge=1)
    """Width of the projector's hidden layer."""
    out: int = Field(128, ge=2)
    """Features that are compared with prototypes."""
    prototypes: int | None = Field(None, ge=2)
    """Clusters: when not given, the published 3,000, or one for 100 images where that is less, and
    at least 30 (ours)."""
    temperature: float = Field(0.1, gt=0)
    """What cosines are divided by in the prediction."""
    epsilon: float = Field(0.05, ge=0.025)
    """What they are divided by in the assignment."""
    iterations: int = Field(3, ge=1)
    """Of Sinkhorn and Knopp's algorithm."""
    freeze: float = Field(0.01, ge=0, le=1)
    """Share of the run during which prototypes stay as they start: 313 of 31,300 steps, an epoch of
    100; 5,005 of a million, an epoch of 200, at 256 images."""
    queue: int = Field(3840, ge=0)
    """Embeddings of earlier large crops that are assigned with the batch's, per large crop, where
    the batch has fewer images than there are prototypes: as published for 256 images, and none for
    4,096. 0 never keeps any."""
    queue_start: float = Field(0.075, ge=0, le=1)
    """Share of the run from which the queue counts, once it is full: 15 of 200 epochs."""


class SwAV(Method):
    """Swapped prediction: each crop predicts the codes that every other large crop was given.

    The recipe is that of the published 100 epochs at 4,096 images: SGD with LARC (LARS) from
    learning rate 4.8 to 0.0048, which is 0.3 and 0.0003 at 256 images, weight decay 1e-6, 10
    warm-up epochs, cosine.
    """

    name: ClassVar[str] = "swav"
    recipe: ClassVar[OptimConfig] = OptimConfig(
        optimizer="lars",
        lr=0.3,
        min_lr=0.0003,
        betas=(0.9, 0.999),
        weight_decay=1e-6,
        warmup=0.1,
    )
    horizon: ClassVar[bool] = True
    short_run: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "options.epsilon": 0.03,
            "options.queue": 0,
            "optim.optimizer": "adamw",
            "optim.lr": 2e-3,
        }
    )
    Options: ClassVar[type[Settings]] = SwAVOptions

    def __init__(self, backbone: Backbone, options: SwAVOptions, data: DataInfo) -> None:
        super().__init__(backbone, options, data)
        self.options = options
        self.spec = view_spec(options, backbone, data)
        self.projector = mlp([backbone.dim, options.hidden, options.out])
        self.count = options.prototypes or prototype_count(data.images)
        self.prototypes = Prototypes(options.out, self.count)
        size, queues = options.queue, options.large if options.queue else 0
        self.queues = nn.ModuleList(Queue(size, options.out) for _ in range(queues))
        self._seen: list[Tensor] = []

    def forward(self, batch: Batch, progress: Progress) -> Losses:
        """Cross-entropy of every crop with the codes of every other large crop, averaged."""
        options, large, small = self.options, large_crops(batch), small_crops(batch)
        vectors = encode(self.backbone.embed, large) + encode(self.backbone.embed, small)
        directions = normalize(self.projector(torch.cat(vectors)).float(), dim=1)
        scores = self.prototypes(directions, hold=progress.fraction < options.freeze)
        scores = scores.unflatten(0, (len(vectors), -1))
        earlier = self._earlier(directions.detach().chunk(len(vectors))[: len(large)], progress)
        codes = torch.stack(
            [
                sinkhorn(own, options.epsilon, options.iterations, shared)
                for own, shared in zip(scores[: len(large)].detach(), earlier, strict=True)
            ]
        )
        loss = match_other_crops(scores, codes, options.temperature)
        return Losses(loss, {"code_entropy": torch.special.entr(codes).sum(2).mean()})

    @torch.no_grad()
    def _earlier(self, large: tuple[Tensor, ...], progress: Progress) -> list[Tensor | None]:
        """Scores of each large crop's queue, if it is wanted by now; its rows are kept for it."""
        images = len(large[0]) * processes()
        if not (self.training and self.queues and images < self.count):
            return [None] * len(large)
        self._seen.append(torch.stack(large, dim=1))
        full = progress.step * images >= self.options.queue
        if not full or progress.fraction < self.options.queue_start:
            return [None] * len(large)
        return [self.prototypes(queue.rows) for queue in self.queues]

    def after_step(self, progress: Progress) -> None:
        """Normalise the prototypes, and enqueue the large crops of the update, of every process."""
        self.prototypes.normalise()
        if self._seen:
            rows = from_all(torch.cat(self._seen))
            self._seen.clear()
            for queue, crop in zip(self.queues, rows.unbind(1), strict=True):
                cast(Queue, queue).add(crop)


def prototype_count(images: int) -> int:
    """Prototypes for a set of so many images; see ``SwAVOptions.prototypes``."""
    return min(PROTOTYPES, max(FEWEST, images // IMAGES_EACH))

"""NNCLR: match an image's nearest neighbour among earlier images instead of the image itself.

Dwibedi et al., "With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual
Representations" (arXiv 2104.14548).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from unlabel.backbones.base import Backbone
from unlabel.config import OptimConfig, Settings
from unlabel.data.spec import Batch
from unlabel.methods.base import DataInfo, Losses, Method, Progress
from unlabel.methods.parts.contrast import match_keys
from unlabel.methods.parts.gather import from_all
from unlabel.methods.parts.heads import Encoder, mlp
from unlabel.methods.parts.multicrop import (
    Colours,
    ViewOptions,
    encode,
    large_crops,
    view_spec,
)
from unlabel.methods.parts.queue import Queue

QUEUE = 98_304
"""The published size of the queue, a thirteenth of ImageNet-1k."""
SMALLEST_QUEUE = 256
"""Fewer neighbours than this are hardly a choice (ours)."""


class NNCLROptions(ViewOptions):
    """Options of NNCLR; the defaults are the published ones, as far as known: see its card."""

    colours: Colours = "simclr"
    hidden: int = Field(2048, ge=1)
    """Width of the projector's two hidden layers."""
    predictor_hidden: int = Field(4096, ge=1)
    """Width of the predictor's hidden layer."""
    out: int = Field(256, ge=2)
    """Features that are compared."""
    queue: int | None = Field(None, ge=1)
    """Embeddings of earlier images among which neighbours are sought. When not given: the published
    98,304, but no more than half of the images, as a power of two, and at least 256 (ours). A queue
    that holds every image would hold the image itself, as it was an epoch ago."""
    temperature: float = Field(0.1, gt=0)
    """What cosines are divided by."""


class NNCLR(Method):
    """InfoNCE of the neighbour of one view's projection against predictions of the other view.

    The recipe is that of 1,000 epochs at 4,096 images (from memory): LARS, learning rate 0.3 at 256
    images, weight decay 1e-6, 10 warm-up epochs, cosine.
    """

    name: ClassVar[str] = "nnclr"
    recipe: ClassVar[OptimConfig] = OptimConfig(
        optimizer="lars", lr=0.3, betas=(0.9, 0.999), weight_decay=1e-6, warmup=0.01
    )
    Options: ClassVar[type[Settings]] = NNCLROptions

    def __init__(self, backbone: Backbone, options: NNCLROptions, data: DataInfo) -> None:
        super().__init__(backbone, options, data)
        self.options = options
        self.spec = view_spec(options, backbone, data)
        widths = [backbone.dim, options.hidden, options.hidden, options.out]
        self.projector = mlp(widths, last_norm=True)
        self.predictor = mlp([options.out, options.predictor_hidden, options.out])
        self.queue = Queue(options.queue or queue_size(data.images), options.out)
        self._seen: list[Tensor] = []

    def forward(self, batch: Batch, progress: Progress) -> Losses:
        """Both directions, averaged: each neighbour has to find the prediction of its own image."""
        projected = encode(Encoder(self.backbone, self.projector), large_crops(batch))
        predicted = encode(self.predictor, projected)
        if self.training:
            self._seen.append(projected[0].detach())
        temperature = self.options.temperature
        there, found = match_keys(self.queue.nearest(projected[0]), predicted[1], temperature)
        back, found_back = match_keys(self.queue.nearest(projected[1]), predicted[0], temperature)
        accuracy = (found + found_back) / 2
        return Losses((there + back) / 2, {"match_accuracy": accuracy})

    def after_step(self, progress: Progress) -> None:
        """Enqueue the first view's projections of the whole update, of every process."""
        self.queue.add(from_all(torch.cat(self._seen)))
        self._seen.clear()


def queue_size(images: int) -> int:
    """Rows of the queue for a set of so many images; see ``NNCLROptions.queue``."""
    half = 1 << max(0, (images // 2).bit_length() - 1)
    return min(QUEUE, max(SMALLEST_QUEUE, half))

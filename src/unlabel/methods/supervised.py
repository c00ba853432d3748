"""The supervised baseline: the same loop, data and budget, with labels only."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from unlabel.backbones.base import Backbone
from unlabel.config import OptimConfig, Scale, Settings
from unlabel.data.spec import Batch, Crops, Photometric, ViewSpec
from unlabel.errors import ConfigError
from unlabel.methods.base import DataInfo, Losses, Method, Progress

GROUP = "images"
UNLABELLED = -1


class SupervisedOptions(Settings):
    """Options of the supervised baseline."""

    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Share of the target spread over all classes (DeiT)."""
    scale: Scale = (0.08, 1.0)
    """Share of the image's area that a crop covers (DeiT)."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    jitter: float | None = Field(None, ge=0, le=1)
    """Half-width of the random factors of brightness, contrast and saturation: 0.4 when not given,
    none for images that are not RGB."""


class Supervised(Method):
    """Cross-entropy over the labelled images of a batch.

    The recipe follows DeiT: AdamW (0.9, 0.999), 5e-4 at 512 images, weight decay 0.05, warm-up over
    5 of 300 epochs, cosine (to zero here), drop path 0.1. RandAugment, mixup, cutmix and erasing
    are left out, so that what differs from the unsupervised methods is the labels.
    """

    name: ClassVar[str] = "supervised"
    recipe: ClassVar[OptimConfig] = OptimConfig(
        lr=2.5e-4, betas=(0.9, 0.999), weight_decay=0.05, warmup=5 / 300, schedule="cosine"
    )
    drop_path: ClassVar[float] = 0.1
    Options: ClassVar[type[Settings]] = SupervisedOptions

    def __init__(self, backbone: Backbone, options: SupervisedOptions, data: DataInfo) -> None:
        super().__init__(backbone, options, data)
        if data.classes == 0:
            raise ConfigError(
                "method 'supervised' needs labels, and the data has none: put each class's images "
                "in a folder of its name, or give `unlabel ingest` a CSV or Parquet label column"
            )
        self.label_smoothing = options.label_smoothing
        self.head = nn.Linear(backbone.dim, data.classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        jitter = options.jitter
        if jitter is None:
            jitter = 0.4 if backbone.in_chans == 3 else 0.0
        colour = Photometric(
            jitter_p=float(jitter > 0), brightness=jitter, contrast=jitter, saturation=jitter
        )
        crop = Crops(
            backbone.image_size, scale=options.scale, flip=options.flip, photometric=colour
        )
        self.spec = ViewSpec({GROUP: crop})

    def forward(self, batch: Batch, progress: Progress) -> Losses:
        """Mean cross-entropy and accuracy over the images that have a label; 0 without any."""
        logits = self.head(self.backbone.embed(batch.views[GROUP][:, 0])).float()
        labels = batch.labels
        if labels is None:
            labels = logits.new_full((len(logits),), UNLABELLED, dtype=torch.int64)
        labelled = (labels != UNLABELLED).sum().clamp(min=1)
        total = cross_entropy(
            logits,
            labels,
            ignore_index=UNLABELLED,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        return Losses(total / labelled, {"accuracy": _hits(logits, labels) / labelled})


def _hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Images whose largest logit is their label's; one without a label is never a hit."""
    return (logits.detach().argmax(dim=1) == labels).sum()

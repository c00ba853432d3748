"""Linear probe by SGD on augmented crops: the protocol of the published ImageNet figures."""

from __future__ import annotations

import torch
from pydantic import Field

from unlabel.backbones.base import Backbone
from unlabel.config import OptimConfig, Scale, Settings
from unlabel.data.spec import Crops
from unlabel.data.store import Store
from unlabel.evaluation.classifier import Classifier, fit, seeded


class LinearSGDConfig(Settings):
    """RELICv2's official linear evaluation (arXiv 2201.05119): no warm-up, no weight decay."""

    epochs: int = Field(100, ge=1)
    """Passes over the labelled images."""
    batch_size: int = Field(1024, ge=1)
    """Images of one update; all of them where there are fewer."""
    lr: float = Field(0.3, gt=0)
    """Peak learning rate at 256 images a step; then a cosine to zero."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Nesterov's."""
    scale: Scale = (0.08, 1.0)
    """Share of the image's area that a training crop covers."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""


def probe_sgd(
    backbone: Backbone,
    store: Store,
    settings: LinearSGDConfig,
    *,
    seed: int = 0,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> Classifier:
    """Train a linear head on the frozen ``backbone``, which stays in evaluation mode.

    Args:
        backbone: its weights and statistics do not change.
        store: labelled training images, all with a label.
        settings: budget and recipe.
        seed: of the head, the order and the crops.
        mean: of pixels in [0, 1], a value a channel.
        std: likewise.
        device: where to train.
        workers: processes that read images.
    """
    with seeded(seed):
        classifier = Classifier(backbone, len(store.info.classes), mean, std, frozen=True)
    classifier.to(device)
    batch_size = min(settings.batch_size, len(store))
    groups = [{"params": list(classifier.head.parameters()), "lr_scale": 1.0}]
    optimizer = torch.optim.SGD(
        groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0
    )
    fit(
        classifier,
        store,
        optimizer,
        OptimConfig(lr=settings.lr, warmup=0.0),
        Crops(backbone.image_size, scale=settings.scale, flip=settings.flip),
        steps=max(1, settings.epochs * len(store) // batch_size),
        batch_size=batch_size,
        seed=seed,
        device=device,
        workers=workers,
    )
    return classifier

"""Fine-tuning: all weights learn from the labels, from the pre-trained start or from scratch."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from timm.data import Mixup
from timm.layers import DropPath
from torch import nn

from unlabel.backbones.base import Backbone
from unlabel.config import OptimConfig, Scale, Settings
from unlabel.data.spec import Crops
from unlabel.data.store import Store
from unlabel.evaluation.classifier import Classifier, fit, seeded
from unlabel.evaluation.linear import LinearProbe
from unlabel.training.optim import build_optimizer


class FinetuneConfig(Settings):
    """Budget and recipe of fine-tuning; the labels-only baseline gets the same budget.

    The defaults serve few labels and minutes. SplitMask's published recipe for small sets (fact:
    arXiv 2112.10740, table 9) is 300 epochs at batch 1024, lr 4e-3 (1e-3 at 256 images), layer
    decay 0.65, warm-up over 60 epochs, weight decay 0.05, label smoothing 0.1, drop path 0.1,
    mixup 0.8, cutmix 1.0.
    """

    steps: int | None = Field(None, ge=1)
    """Updates; when not given, as many as ``epochs`` of the labelled images make, but at least
    ``min_steps`` and at most ``max_steps``."""
    epochs: int = Field(50, ge=1)
    """Passes over the labelled images, where ``steps`` is not given."""
    min_steps: int = Field(100, ge=1)
    """Fewest updates, however few images have a label."""
    max_steps: int = Field(1000, ge=1)
    """Most updates, where ``steps`` is not given."""
    batch_size: int = Field(128, ge=2, multiple_of=2)
    """Most images of one update. With fewer labels it is the power of two that holds them all, from
    ``SMALLEST_BATCH`` up."""
    head: Literal["probe", "random"] = "probe"
    """The classifier's start: the linear probe of the same labels (Kumar et al. 2022, arXiv
    2202.10054), so that the first updates do not spoil the features, or random as in most papers.
    Training from scratch always starts at random."""
    lr: float = Field(2e-3, gt=0)
    """Peak learning rate at 256 images a step, from the pre-trained start."""
    scratch_lr: float = Field(4e-3, gt=0)
    """The same for training from scratch, which has no layer decay."""
    layer_decay: float = Field(0.75, gt=0, le=1)
    """Factor of the learning rate from each block to the one below it."""
    weight_decay: float = Field(0.05, ge=0)
    """Not applied to biases, norms and what timm exempts."""
    clip_grad: float | None = Field(1.0, gt=0)
    """Largest norm of the whole gradient."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the updates over which the learning rate climbs from zero; then a cosine."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Share of the target that is spread evenly over all classes."""
    drop_path: float = Field(0.1, ge=0, lt=1)
    """Stochastic depth of the last block; earlier blocks have proportionally less."""
    mixup: float = Field(0.0, ge=0)
    """Alpha of mixup; 0 is none. The published 0.8 needs thousands of updates to pay."""
    cutmix: float = Field(0.0, ge=0)
    """Alpha of CutMix; 0 is none. Published: 1.0."""
    scale: Scale = (0.7, 1.0)
    """Share of the image's area that a training crop covers. Published: (0.08, 1)."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip; 0 where left and right matter, as in writing."""

    def budget(self, images: int) -> tuple[int, int]:
        """Updates and batch size for so many labelled images."""
        holds_all = 2 ** math.ceil(math.log2(max(images, 1)))
        batch = min(max(holds_all, SMALLEST_BATCH), self.batch_size)
        by_epochs = round(self.epochs * images / batch)
        return self.steps or min(max(by_epochs, self.min_steps), self.max_steps), batch


SMALLEST_BATCH = 32


def finetune(
    backbone: Backbone,
    store: Store,
    settings: FinetuneConfig,
    *,
    scratch: bool = False,
    probe: LinearProbe | None = None,
    seed: int = 0,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> Classifier:
    """Train ``backbone`` (in place) and a new linear head on the labelled images of ``store``.

    Args:
        backbone: the start; its weights change.
        store: labelled training images, all with a label.
        settings: budget and recipe.
        scratch: the start is random: ``scratch_lr``, no layer decay.
        probe: where the head starts; at random when not given.
        seed: of the head, the order, the crops, drop path and mixup.
        mean: of pixels in [0, 1], a value a channel.
        std: likewise.
        device: where to train.
        workers: processes that read images.
    """
    classes = len(store.info.classes)
    steps, batch_size = settings.budget(len(store))
    optim = OptimConfig(
        lr=settings.scratch_lr if scratch else settings.lr,
        betas=(0.9, 0.999),
        weight_decay=settings.weight_decay,
        layer_decay=1.0 if scratch else settings.layer_decay,
        warmup=settings.warmup,
        clip_grad=settings.clip_grad,
    )
    set_drop_path(backbone.net, settings.drop_path)
    with seeded(seed):
        classifier = Classifier(backbone, classes, mean, std).to(device)
    if probe is not None:
        classifier.head.load_state_dict({"weight": probe.weight, "bias": probe.bias})
    fit(
        classifier,
        store,
        build_optimizer(classifier, optim),
        optim,
        Crops(backbone.image_size, scale=settings.scale, flip=settings.flip),
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        device=device,
        mixup=_mixup(settings, classes),
        label_smoothing=settings.label_smoothing,
        workers=workers,
    )
    return classifier


def _mixup(settings: FinetuneConfig, classes: int) -> Mixup | None:
    if not settings.mixup and not settings.cutmix:
        return None
    return Mixup(
        mixup_alpha=settings.mixup,
        cutmix_alpha=settings.cutmix,
        label_smoothing=settings.label_smoothing,
        num_classes=classes,
    )


def set_drop_path(net: nn.Module, rate: float) -> None:
    """Give the residual blocks of a timm network stochastic depth, rising linearly to ``rate``.

    Pre-training may have built them without (timm puts an identity there, or nothing).
    """
    slots = ("drop_path", "drop_path1", "drop_path2")
    blocks = [m for m in net.modules() if any(hasattr(m, name) for name in slots)]
    for i, block in enumerate(blocks):
        share = rate * i / max(1, len(blocks) - 1)
        for name in slots:
            if hasattr(block, name):
                setattr(block, name, DropPath(share) if share else nn.Identity())

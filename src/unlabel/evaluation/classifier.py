"""A backbone with a linear classifier, trained on labelled images with a fixed budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn import functional as F

from unlabel.analysis.features import bf16, embed_all
from unlabel.backbones.attention import suit_attention
from unlabel.backbones.base import Backbone
from unlabel.config import OptimConfig
from unlabel.data.images import Images, normalise
from unlabel.data.loader import stream
from unlabel.data.spec import Crops, ViewSpec
from unlabel.data.store import Store
from unlabel.data.views import Batches
from unlabel.errors import DataError
from unlabel.training.optim import set_learning_rate
from unlabel.training.schedule import learning_rate

GROUP = "images"


class Classifier(nn.Module):
    """``head`` on the pooled vector of ``backbone``; with ``frozen`` only the head learns.

    The mean and standard deviation are those that normalise its images, a value a channel.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(not frozen)
        self.head = nn.Linear(backbone.dim, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.mean = mean
        self.std = std
        self.frozen = frozen

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B, C) of normalised images."""
        return self.head(self.backbone.embed(images))

    def train(self, mode: bool = True) -> Classifier:
        """As torch's, but a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def predict(self, images: Images, device: torch.device | str) -> Tensor:
        """Classes, int64 (n,) on the processor, of whole images."""
        self.eval()
        scores = embed_all(lambda b: self(normalise(b, self.mean, self.std)), images, device)
        return scores.argmax(1).cpu()


def fit(
    classifier: Classifier,
    store: Store,
    optimizer: torch.optim.Optimizer,
    optim: OptimConfig,
    crops: Crops,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    device: torch.device | str,
    mixup: Mixup | None = None,
    label_smoothing: float = 0.0,
    workers: int = 0,
) -> None:
    """Train in place, on nothing but the images and labels of ``store``.

    Images repeat within a step where there are fewer than ``batch_size``. The optimiser's groups
    carry ``lr_scale``.
    """
    # The stream normalises by what its store knows; this network may have learnt with other values.
    info = replace(store.info, mean=classifier.mean, std=classifier.std)
    batches = Batches(
        Store(store.path, info, store.rows),
        ViewSpec({GROUP: crops}),
        seed=seed,
        batch_size=batch_size,
    )
    suit_attention(classifier, torch.device(device), math.prod(classifier.backbone.grid))
    classifier.train()
    with seeded(seed):
        for step, batch in enumerate(stream(batches, 0, steps, workers=workers, device=device)):
            images, targets = batch.views[GROUP][:, 0], batch.labels
            if targets is None:
                raise DataError("Training a classifier needs a label for every image.")
            if mixup is not None:
                images, targets = mixup(images, targets)
            with bf16(device):
                scores = classifier(images)
            smoothing = 0.0 if mixup is not None else label_smoothing
            loss = F.cross_entropy(scores.float(), targets, label_smoothing=smoothing)
            loss.backward()
            if optim.clip_grad is not None:
                nn.utils.clip_grad_norm_(classifier.parameters(), optim.clip_grad)
            set_learning_rate(optimizer, learning_rate(optim, step, steps, batch_size))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch (drop path) and NumPy (timm's mixup) inside, and leave both as they were."""
    numpy_state = np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)

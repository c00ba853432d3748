"""What is watched while a run trains: held-out loss, rank and spread of features, online kNN."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property

import torch
from torch import Tensor

from unlabel.analysis.features import embed_all
from unlabel.analysis.knn import knn_accuracy
from unlabel.analysis.rank import feature_std, rankme
from unlabel.config import PretrainConfig
from unlabel.data.images import Images, normalise
from unlabel.data.loader import stream
from unlabel.data.spec import Batch
from unlabel.data.store import Store
from unlabel.data.views import Batches
from unlabel.errors import Diverged
from unlabel.methods.base import Method, Progress

NEIGHBOURS_FROM = 2048
"""Training images that the online kNN votes with, at most."""
BATCH = 256
"""Held-out images that are looked at together."""


class Monitors:
    """Looks at the same held-out images, with the same crops and masks, whenever asked.

    The crops are read once and kept, so that a look costs only passes through the network.
    """

    def __init__(
        self,
        method: Method,
        train: Store,
        held_out: Store,
        config: PretrainConfig,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager],
    ) -> None:
        self.method = method
        self.held_out = held_out
        self.train = _some(train, NEIGHBOURS_FROM, config.held_out_seed)
        self.config = config
        self.device = device
        self.autocast = autocast

    @torch.inference_mode()
    def look(self, progress: Progress) -> dict[str, float]:
        """Held-out loss, RankMe, spread of features and, where there are labels, kNN accuracy.

        Raises:
            Diverged: the held-out loss is not a finite number.
        """
        training = self.method.training
        self.method.eval()
        loss = self._loss(progress)
        if not math.isfinite(loss):
            raise Diverged(
                f"The held-out loss became {loss} by step {progress.step}, and the run stopped "
                "there. Start again with a lower learning rate (--set optim.lr=...) or --set "
                "precision=fp32."
            )
        values = {"held_out_loss": loss, **self._quality()}
        self.method.train(training)
        return values

    def _loss(self, progress: Progress) -> float:
        total = torch.zeros((), device=self.device)
        for batch in self._batches:
            with self.autocast():
                loss = self.method.validation_loss(batch.to(self.device), progress)
            total += loss.float() * len(batch.ids)
        return (total / len(self.held_out)).item()

    def _quality(self) -> dict[str, float]:
        held_out = self._features(self._held_out_images)
        values = {"rankme": rankme(held_out), "feature_std": feature_std(held_out)}
        ours, theirs = self.train.labels, self.held_out.labels
        if ours is not None and theirs is not None and (ours >= 0).all() and (theirs >= 0).all():
            values["knn"] = knn_accuracy(
                self._features(self._train_images),
                torch.from_numpy(ours),
                held_out,
                torch.from_numpy(theirs),
            )
        return values

    def _features(self, images: Images) -> Tensor:
        info = self.train.info
        embed = self.method.exported.embed
        return embed_all(lambda b: embed(normalise(b, info.mean, info.std)), images, self.device)

    @cached_property
    def _batches(self) -> list[Batch]:
        batches = Batches(
            self.held_out,
            self.method.spec,
            seed=self.config.held_out_seed,
            batch_size=BATCH,
            fixed=True,
        )
        cpu = torch.device("cpu")
        return list(stream(batches, 0, len(batches), workers=0, device=cpu))

    @cached_property
    def _held_out_images(self) -> Images:
        return Images(self.held_out, self.method.backbone.image_size, batch_size=BATCH)

    @cached_property
    def _train_images(self) -> Images:
        return Images(self.train, self.method.backbone.image_size, batch_size=BATCH)


def _some(store: Store, most: int, seed: int) -> Store:
    """At most ``most`` images of ``store``, drawn by the seed."""
    return store if len(store) <= most else store.holdout(1.0, most, seed)[1]

"""One subject under every protocol: it learns from labelled rows, and predicts the test images."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlabel.analysis.knn import predict_knn
from unlabel.backbones.base import Backbone
from unlabel.data.images import Images
from unlabel.errors import UsageError
from unlabel.evaluation.classifier import Classifier
from unlabel.evaluation.features import extract
from unlabel.evaluation.finetune import finetune
from unlabel.evaluation.linear import LinearProbe, fit_linear
from unlabel.evaluation.linear_sgd import probe_sgd
from unlabel.evaluation.sets import LabelledSets
from unlabel.evaluation.settings import EvaluationConfig
from unlabel.evaluation.subjects import Subject


class Trial:
    """A subject on a pair of sets; its frozen features are computed once, when first needed."""

    def __init__(
        self,
        subject: Subject,
        sets: LabelledSets,
        settings: EvaluationConfig,
        device: torch.device,
    ) -> None:
        self.subject = subject
        self.sets = sets
        self.settings = settings
        self.device = device
        self._probes: dict[tuple[bytes, int], LinearProbe] = {}
        self.pixels = {
            "mean": subject.mean or sets.train.info.mean,
            "std": subject.std or sets.train.info.std,
        }

    def predict(self, protocol: str, rows: np.ndarray, seed: int) -> Tensor:
        """Classes of the test images, int64 (m,), learnt from training ``rows`` alone."""
        how: dict[str, Callable[[np.ndarray, int], Tensor]] = {
            "knn": self._knn,
            "linear": self._linear,
            "linear-sgd": self._linear_sgd,
            "finetune": self._finetune,
        }
        return how[protocol](rows, seed).cpu()

    def details(self, protocol: str, images: int) -> dict[str, Any]:
        """Settings of ``protocol`` with so many labelled images, as results keep them."""
        settings = self.settings
        found: dict[str, Any] = {}
        if protocol == "knn":
            found = {"k": min(settings.k, images), "temperature": settings.temperature}
        elif protocol == "linear-sgd":
            found = settings.linear_sgd.model_dump(mode="json")
        elif protocol == "finetune":
            steps, batch_size = settings.finetune.budget(images)
            found = settings.finetune.model_dump(mode="json")
            found |= {"steps": steps, "batch_size": batch_size}
        return found | {"left_out": self.sets.left_out}

    def _knn(self, rows: np.ndarray, seed: int) -> Tensor:
        train, labels, test = self._known(rows)
        settings = self.settings
        return predict_knn(train, labels, test, k=settings.k, temperature=settings.temperature)

    def _linear(self, rows: np.ndarray, seed: int) -> Tensor:
        return self._probe(rows, seed).predict(self._features[1])

    def _probe(self, rows: np.ndarray, seed: int) -> LinearProbe:
        """The linear probe of these labels, fitted once for itself and for fine-tuning's start."""
        key = (rows.tobytes(), seed)
        if key not in self._probes:
            train, labels, _ = self._known(rows)
            self._probes[key] = fit_linear(train, labels, len(self.sets.classes), seed=seed)
        return self._probes[key]

    def _linear_sgd(self, rows: np.ndarray, seed: int) -> Tensor:
        return self._test(
            probe_sgd(
                self._network(seed),
                self.sets.train.select(rows),
                self.settings.linear_sgd,
                seed=seed,
                device=self.device,
                workers=self.settings.workers,
                **self.pixels,
            )
        )

    def _finetune(self, rows: np.ndarray, seed: int) -> Tensor:
        from_probe = self.settings.finetune.head == "probe" and not self.subject.scratch
        return self._test(
            finetune(
                self._network(seed),
                self.sets.train.select(rows),
                self.settings.finetune,
                scratch=self.subject.scratch,
                probe=self._probe(rows, seed) if from_probe else None,
                seed=seed,
                device=self.device,
                workers=self.settings.workers,
                **self.pixels,
            )
        )

    def _network(self, seed: int) -> Backbone:
        if self.subject.build is None:
            raise UsageError("Raw pixels have no network to train; they take knn and linear.")
        return self.subject.build(seed)

    def _test(self, classifier: Classifier) -> Tensor:
        return classifier.predict(self._test_images, self.device)

    @property
    def _test_images(self) -> Images:
        settings = self.settings
        size = self.subject.image_size
        return self.sets.test_images(size, settings.batch_size, settings.workers)

    @cached_property
    def _used(self) -> np.ndarray:
        """Training rows that some subset holds; the others need no features."""
        first = self.settings.seed
        return np.unique(
            np.concatenate(
                [
                    self.sets.subset(size, seed)
                    for size in self.settings.labels
                    for seed in range(first, first + self.settings.seeds)
                ]
            )
        )

    @cached_property
    def _features(self) -> tuple[Tensor, Tensor]:
        """Features of the used training images and of the test images."""
        settings, store = self.settings, self.sets.train.select(self._used)
        train = Images(
            store,
            self.subject.image_size,
            batch_size=settings.batch_size,
            workers=settings.workers,
        )
        found = (
            extract(self.subject, train, device=self.device, **self.pixels),
            extract(self.subject, self._test_images, device=self.device, **self.pixels),
        )
        return found if self.subject.build else _without_copies(*found, store.info.channels)

    def _known(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Features and labels of training rows, and features of the test images."""
        train, test = self._features
        places = torch.from_numpy(np.searchsorted(self._used, rows)).to(train.device)
        return train[places], torch.from_numpy(self.sets.labels[rows]).to(train.device), test


def _without_copies(train: Tensor, test: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Raw pixels without channels that only repeat the first, as in grey images stored as RGB."""
    parts = [pixels.unflatten(1, (channels, -1)) for pixels in (train, test)]
    if all((part == part[:, :1]).all() for part in parts):
        parts = [part[:, :1] for part in parts]
    return parts[0].flatten(1), parts[1].flatten(1)

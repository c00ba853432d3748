"""What the network of a finished run is worth: the same images and labels for every run."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from unlabel.backbones.base import Backbone
from unlabel.config import PretrainConfig
from unlabel.data.store import Store
from unlabel.evaluation.sets import LabelledSets
from unlabel.evaluation.settings import EvaluationConfig, Protocol
from unlabel.evaluation.subjects import pretrained
from unlabel.evaluation.trial import Trial
from unlabel.machine import this_machine
from unlabel.study.label_free import label_free
from unlabel.training.split import split_store

MOST = 5_000
"""Labelled images to learn from, and to measure on, at most: a study has many runs."""


class Judge:
    """Measures the backbones of one study.

    Where there are labels, by kNN, a linear probe or fine-tuning. These learn from images that the
    fractions are taken from, and are measured on the store's test split or, without one, on the
    held-out images, which no run learnt from.
    """

    def __init__(self, config: PretrainConfig, protocols: tuple[Protocol, ...]) -> None:
        """``config`` is that of any run of the study.

        Raises:
            DataError: all labelled images to learn from are, pixel for pixel, those to measure on.
        """
        self.protocols = protocols
        self.device = torch.device(this_machine().device)
        self.learnt_from, self.held_out = split_store(config.model_copy(update={"rows": None}))
        self.seed = config.held_out_seed
        self.sets = self._labelled()

    def figures(self, backbone: Backbone) -> dict[str, float | None]:
        """Accuracies in [0, 1] by protocol, where there are labels; LiDAR and alpha-ReQ."""
        backbone = backbone.to(self.device)
        without = label_free(backbone, self.held_out, self.seed, self.device)
        return {**self._accuracies(backbone), **without}

    def _accuracies(self, backbone: Backbone) -> dict[str, float]:
        if self.sets is None:
            return {}
        settings = EvaluationConfig(protocols=self.protocols, labels=("all",), seeds=1)
        trial = Trial(pretrained(backbone), self.sets, settings, self.device)
        rows = self.sets.subset("all", 0)
        return {
            name: (trial.predict(name, rows, 0) == self.sets.truth).float().mean().item()
            for name in self.protocols
        }

    def _labelled(self) -> LabelledSets | None:
        test = self._test_split() or self.held_out
        sets = (self._some(self.learnt_from), self._some(test))
        if any(store.labels is None or not (store.labels >= 0).any() for store in sets):
            return None
        return LabelledSets(*sets)

    def _test_split(self) -> Store | None:
        whole = Store.open(self.held_out.path)
        return whole.split("test") if "test" in whole.info.splits else None

    def _some(self, store: Store) -> Store:
        return store if len(store) <= MOST else store.holdout(1.0, MOST, self.seed)[1]


@torch.no_grad()
def flops(backbone: Backbone) -> int:
    """Floating-point operations of one image's forward pass: twice the multiply-adds.

    Those of matrix products and convolutions, as torch counts them; it does not count attention
    that is fused for processors, so attention is done in its parts.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports triton, which takes seconds

    device = next(backbone.parameters()).device
    image = torch.zeros(1, backbone.in_chans, *(backbone.image_size,) * 2, device=device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        backbone.embed(image)
    return counter.get_total_flops()

"""What the network of a finished run is worth: the same images and labels for every run."""

from __future__ import annotations

from functools import cached_property

import torch
from torch.utils.flop_counter import FlopCounterMode

from unlabel.backbones.base import Backbone
from unlabel.config import PretrainConfig
from unlabel.data.store import Store
from unlabel.evaluation.sets import LabelledSets
from unlabel.evaluation.settings import EvaluationConfig
from unlabel.evaluation.subjects import pretrained
from unlabel.evaluation.trial import Trial
from unlabel.machine import this_machine
from unlabel.training.split import split_store

MOST = 10_000
"""Labelled images to learn from, and to measure on, at most: a study has many runs."""


class Judge:
    """Measures the backbones of one study.

    Where there are labels: kNN, a linear probe and, if asked for, fine-tuning. They learn from the
    images that the largest fraction is taken from, and are measured on the store's test split or,
    without one, on the held-out images, which no run learnt from.
    """

    def __init__(self, config: PretrainConfig, finetune: bool = False) -> None:
        """``config`` is that of any run of the study."""
        self.protocols = ("knn", "linear", "finetune") if finetune else ("knn", "linear")
        self.learnt_from, self.held_out = split_store(config.model_copy(update={"rows": None}))
        self.seed = config.held_out_seed

    def accuracies(self, backbone: Backbone) -> dict[str, float]:
        """Accuracy in [0, 1] by protocol; none without labels."""
        if self._sets is None:
            return {}
        settings = EvaluationConfig(protocols=self.protocols, labels=("all",), seeds=1)
        device = torch.device(this_machine().device)
        trial = Trial(pretrained(backbone), self._sets, settings, device)
        rows = self._sets.subset("all", 0)
        return {
            name: (trial.predict(name, rows, 0) == self._sets.truth).float().mean().item()
            for name in self.protocols
        }

    @cached_property
    def _sets(self) -> LabelledSets | None:
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
    """Floating-point operations of one image's forward pass: twice the multiply-adds."""
    image = torch.zeros(1, backbone.in_chans, backbone.image_size, backbone.image_size)
    with FlopCounterMode(display=False) as counter:
        backbone.embed(image)
    return counter.get_total_flops()

"""Centring: what a teacher says about every image alike is taken out of its targets (DINO)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unlabel.methods.parts.gather import mean_over_all
from unlabel.methods.parts.precision import full_precision


class Centre(nn.Module):
    """A running mean of the teacher's ``out`` logits over all rows of all processes.

    It moves after the step, and only by what was seen in training, so that looking at held-out
    images leaves no trace and micro-batches count as one batch.
    """

    value: Tensor

    def __init__(self, out: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(out))
        self._means: list[Tensor] = []

    @torch.no_grad()
    def targets(self, logits: Tensor, temperature: float) -> Tensor:
        """Probabilities (N, out) of the teacher's logits (N, out), centred and sharpened."""
        with full_precision(logits):
            logits = logits.float()
            if self.training:
                self._means.append(logits.mean(0))
            return ((logits - self.value) / temperature).softmax(1)

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the mean of the logits seen since the last update."""
        if self._means:
            mean = mean_over_all(torch.stack(self._means).mean(0))
            self._means.clear()
            self.value.lerp_(mean, 1 - self.momentum)

"""A head that learns what a slowly following copy of itself says: half of DINO, twice EsViT."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unlabel.methods.parts.centre import Centre
from unlabel.methods.parts.dino_head import DINOHead
from unlabel.methods.parts.teacher import Teacher


class Distillation(nn.Module):
    """The student's head, the teacher's, and the centre of what the teacher says."""

    def __init__(self, head: DINOHead, momentum: float) -> None:
        super().__init__()
        self.head = head
        self.teacher = Teacher(head)
        self.centre = Centre(len(head.directions), momentum)

    @torch.no_grad()
    def targets(self, features: Tensor, temperature: float) -> Tensor:
        """The teacher's probabilities (N, out) for features (N, dim) of its backbone."""
        return self.centre.targets(self.teacher.network(features), temperature)

    def update(self, decay: float) -> None:
        """After the step: move the teacher and the centre."""
        self.teacher.update(self.head, decay, copy_buffers=False)
        self.centre.update()

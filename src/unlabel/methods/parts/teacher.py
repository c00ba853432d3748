"""A teacher: a copy of a network whose weights follow it as an exponential average."""

from __future__ import annotations

import copy

import torch
from timm.layers import DropPath
from torch import Tensor, nn


class Teacher(nn.Module):
    """A frozen copy of ``student`` that ``update`` moves towards it.

    It is a module, so that a checkpoint holds it with everything else, and none of its parameters
    asks for a gradient. It has no stochastic depth, whatever the student has (DINO's code).
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(student).requires_grad_(False)
        for part in self.network.modules():
            if isinstance(part, DropPath):
                part.drop_prob = 0.0

    @torch.no_grad()
    def update(self, student: nn.Module, decay: float, copy_buffers: bool = True) -> None:
        """Set weights to ``decay * weights + (1 - decay) * student's``; buffers are copied.

        A teacher that is run while it trains has statistics of its own and copies none.
        """
        ours: list[Tensor] = list(self.network.parameters())
        theirs = [p.detach() for p in student.parameters()]
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        if not copy_buffers:
            return
        for mine, buffer in zip(self.network.buffers(), student.buffers(), strict=True):
            mine.copy_(buffer)

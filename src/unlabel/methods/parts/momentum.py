"""How fast a target network follows the online one, by the place in the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from unlabel.methods.base import Progress

HORIZON = 0.003
"""Share of a run that a target remembers at the start. BYOL's published runs of 40 to 300 epochs
(section 1.5 of its facts: 12,510 to 93,826 updates with decays of 0.97 to 0.99) lie between 0.001
and 0.0032."""
SLOWEST_START = 0.9
"""Below this decay a target hardly differs from the online network (ours)."""
SHORT_RUN: Mapping[str, Any] = MappingProxyType({"optim.optimizer": "adamw", "optim.lr": 2e-3})
"""Optimiser of methods with a target, in runs of minutes on small images (ours): with SGD, RELICv2
and BYOL had hardly learnt after 235 and 300 updates on CIFAR-10 (docs/results/methods.md)."""
SHORT_CONTRASTIVE_RUN: Mapping[str, Any] = MappingProxyType({**SHORT_RUN, "optim.scale_lr": "none"})
"""The same of those that contrast images as well: at the same rate in batches of 64, MoCLR, MoCo v3
and RELICv2 learn much more; BYOL learns less (docs/results/methods.md)."""


def target_decay(published: float, progress: Progress) -> float:
    """The decay of this step: from ``start_decay`` to 1 along ``cosine_decay``."""
    return cosine_decay(start_decay(published, progress.steps), progress)


def start_decay(published: float, steps: int) -> float:
    """The decay to begin with: the published one, or less where a run is so short that its target
    would otherwise remember most of it.
    """
    short = 1 - 1 / max(1.0, HORIZON * steps)
    return min(published, max(SLOWEST_START, short))


def cosine_decay(start: float, progress: Progress) -> float:
    """From ``start`` to 1 along a cosine: 1 - (1 - start) (cos(pi k / K) + 1) / 2 (BYOL)."""
    return 1 - (1 - start) * (math.cos(math.pi * progress.fraction) + 1) / 2

"""Matching two views of an image against the other images of the batch (InfoNCE).

Shapes: B images of this process, G of all processes together, D features.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, distributed
from torch.distributed.nn.functional import all_gather
from torch.nn.functional import cross_entropy, normalize

from unlabel.methods.parts.precision import full_precision


def info_nce(
    a: Tensor,
    b: Tensor,
    temperature: float = 0.2,
    normalise: bool = True,
    negatives: Literal["other", "both"] = "other",
) -> tuple[Tensor, Tensor]:
    """Symmetrised InfoNCE of paired rows, and how often the right partner scores highest.

    Each row of ``a`` has to find its partner among the rows of ``b`` of every process, and the
    other way round; gradients flow into all of them. There is no momentum and no stop-gradient.

    Args:
        a: (B, D), one view of each image.
        b: (B, D), the other view.
        temperature: what scores are divided by.
        normalise: compare directions (cosine) instead of plain products.
        negatives: ``"other"``, the other view's G - 1 rows of other images; ``"both"`` adds the
            G - 1 of the row's own view.

    Returns:
        The loss, averaged over rows and directions, and the accuracy in [0, 1], detached.
    """
    with full_precision(a):
        a, b = a.float(), b.float()
        if normalise:
            a, b = normalize(a, dim=1), normalize(b, dim=1)
        all_a, all_b = _from_all(a), _from_all(b)
        there = _scores(a, all_b, all_a, negatives) / temperature
        back = _scores(b, all_a, all_b, negatives) / temperature
        scores = torch.cat([there, back])
        partner = torch.arange(len(a), device=a.device) + _rank() * len(a)
        partner = partner.repeat(2)
        loss = cross_entropy(scores, partner)
    return loss, (scores.detach().argmax(1) == partner).float().mean()


def _scores(rows: Tensor, partners: Tensor, same: Tensor, negatives: str) -> Tensor:
    """Products of each row with all candidates: (B, G), or (B, 2G) with its own view's."""
    scores = rows @ partners.T
    if negatives == "other":
        return scores
    at = torch.arange(len(rows), device=rows.device)
    itself = at[:, None] + _rank() * len(rows) == torch.arange(len(same), device=rows.device)
    return torch.cat([scores, (rows @ same.T).masked_fill(itself, float("-inf"))], dim=1)


def _from_all(rows: Tensor) -> Tensor:
    """The rows of every process in the order of ranks; gradients return to their owners."""
    return torch.cat(all_gather(rows)) if _gathers() else rows


def _gathers() -> bool:
    """Whether other processes hold negatives: held-out images are the same in all of them."""
    ready = distributed.is_available() and distributed.is_initialized()
    return ready and distributed.get_world_size() > 1 and torch.is_grad_enabled()


def _rank() -> int:
    return distributed.get_rank() if _gathers() else 0

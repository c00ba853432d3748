"""Matching two views of an image against the other images of the batch (InfoNCE).

Shapes: B images of this process, G of all processes together, D features.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from unlabel.methods.parts.gather import from_all, rank
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
        all_a, all_b = from_all(a), from_all(b)
        there = _scores(a, all_b, all_a, negatives) / temperature
        back = _scores(b, all_a, all_b, negatives) / temperature
        scores = torch.cat([there, back])
        partner = torch.arange(len(a), device=a.device) + rank() * len(a)
        partner = partner.repeat(2)
        loss = cross_entropy(scores, partner)
    return loss, (scores.detach().argmax(1) == partner).float().mean()


def match_keys(
    queries: Tensor, keys: Tensor, temperature: float, same: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """InfoNCE of queries against the keys of every process.

    Gradients flow into both, unless the caller made one without.

    Args:
        queries: (B, D).
        keys: (B, D), the partner of each query at the same row.
        temperature: what cosines are divided by.
        same: (B, D), keys of the queries' own view; those of the G - 1 other images are candidates
            as well where they are given.

    Returns:
        The loss, averaged over queries, and how often the partner scores highest, detached.
    """
    with full_precision(queries):
        queries = normalize(queries.float(), dim=1)
        keys = from_all(normalize(keys.float(), dim=1))
        own = keys if same is None else from_all(normalize(same.float(), dim=1))
        scores = _scores(queries, keys, own, "other" if same is None else "both") / temperature
        partner = torch.arange(len(queries), device=queries.device) + rank() * len(queries)
        loss = cross_entropy(scores, partner)
    return loss, (scores.detach().argmax(1) == partner).float().mean()


def _scores(rows: Tensor, partners: Tensor, same: Tensor, negatives: str) -> Tensor:
    """Products of each row with all candidates: (B, G), or (B, 2G) with its own view's."""
    scores = rows @ partners.T
    if negatives == "other":
        return scores
    at = torch.arange(len(rows), device=rows.device)
    itself = at[:, None] + rank() * len(rows) == torch.arange(len(same), device=rows.device)
    return torch.cat([scores, (rows @ same.T).masked_fill(itself, float("-inf"))], dim=1)

"""Regions of two crops that correspond, and learning from the one what is said of the other.

Li et al., "Efficient Self-supervised Vision Transformers for Representation Learning"
(arXiv 2106.09785), section 3.2.

Shapes: B images, R regions of the student's crop, N of the teacher's, D features, K outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unlabel.methods.parts.positions import take
from unlabel.methods.parts.precision import full_precision


@torch.no_grad()
def best_match(regions: Tensor, others: Tensor) -> Tensor:
    """Which of ``others`` (B, N, D) has the highest cosine to each region (B, R, D).

    Returns:
        int64 (B, R).
    """
    with full_precision(regions):
        ours, theirs = normalize(regions.float(), dim=2), normalize(others.float(), dim=2)
        return (ours @ theirs.mT).argmax(2)


def match_regions(
    logits: Tensor, regions: Tensor, targets: list[tuple[Tensor, Tensor]], temperature: float
) -> Tensor:
    """Cross-entropy of each region with what was said of its best match in other crops.

    Summed over those crops, averaged over regions and images.

    Args:
        logits: (B, R, K), of the student's regions, before they are divided by ``temperature``.
        regions: (B, R, D), their features.
        targets: of each other crop the teacher's features (B, N, D) and probabilities (B, N, K).
        temperature: what logits are divided by.
    """
    wanted = sum(take(said, best_match(regions, seen)) for seen, said in targets)
    with full_precision(logits):
        scores = logits.float() / temperature
        return (len(targets) * scores.logsumexp(2) - (wanted * scores).sum(2)).mean()

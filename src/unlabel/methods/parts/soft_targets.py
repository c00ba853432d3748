"""Giving every crop of an image the soft targets that its other crops were given (SwAV, DINO).

Shapes: B images, S crops of each, the first T of which have targets, K outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlabel.methods.parts.precision import full_precision


def match_other_crops(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each crop with the targets of the others, averaged over pairs and images.

    As targets sum to one, -p log softmax(s) = logsumexp(s) - p s, and the products of all pairs are
    one small matrix.

    Args:
        logits: (S, B, K), before they are divided by ``temperature``.
        targets: (T, B, K), probabilities without gradient; a crop is not matched with its own.
        temperature: what logits are divided by.
    """
    with full_precision(logits):
        scores = logits.float() / temperature
        products = torch.einsum("tbk,sbk->ts", targets.to(scores.dtype), scores)
        losses = scores.logsumexp(2).sum(1) - products
        own = torch.eye(*losses.shape, dtype=torch.bool, device=losses.device)
        total = losses.masked_fill(own, 0).sum()
    return total / (logits.shape[1] * len(targets) * (len(logits) - 1))

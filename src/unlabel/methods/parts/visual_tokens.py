"""Predicting a visual token for each hidden patch: loss, and what it must beat.

Shapes: M predicted patches, D features, V tokens of the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unlabel.methods.parts.linear_cross_entropy import linear_cross_entropy


def token_loss(
    features: Tensor, head: nn.Linear, targets: Tensor, counted: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean cross-entropy, and scalars that say how hard the task was.

    Args:
        features: (M, D).
        head: from D to V.
        targets: int64 (M,).
        counted: bool (M,), false for predictions to leave out; all count when not given. If none
            counts, the loss is zero.

    Returns:
        The loss and detached scalars: ``mim_accuracy``, the share predicted right;
        ``majority_share``, what always predicting the batch's commonest token would score;
        ``token_perplexity``, the exponential of the entropy (in nats) of the batch's tokens.
    """
    weights = torch.ones_like(targets, dtype=torch.float32) if counted is None else counted.float()
    weights = weights / weights.sum().clamp(min=1)
    loss, right = linear_cross_entropy(features, head, targets, weights)
    with torch.no_grad():
        shares = weights.new_zeros(head.out_features).scatter_add(0, targets, weights)
        scalars = {
            "mim_accuracy": (right * weights).sum(),
            "majority_share": shares.max(),
            "token_perplexity": torch.special.entr(shares).sum().exp(),
        }
    return loss, scalars

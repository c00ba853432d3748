"""Predicting a visual token for each hidden patch: loss, and what it must beat.

Shapes: M predicted patches, V tokens of the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def token_loss(
    logits: Tensor, targets: Tensor, counted: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean cross-entropy, and scalars that say how hard the task was.

    Args:
        logits: (M, V).
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
    loss = (cross_entropy(logits.float(), targets, reduction="none") * weights).sum()
    with torch.no_grad():
        right = logits.argmax(1) == targets
        shares = weights.new_zeros(logits.shape[1]).scatter_add(0, targets, weights)
        scalars = {
            "mim_accuracy": (right * weights).sum(),
            "majority_share": shares.max(),
            "token_perplexity": torch.special.entr(shares).sum().exp(),
        }
    return loss, scalars

"""A linear layer and its cross-entropy in one, a few rows at a time.

For thousands of classes the logits of a batch and their gradient are by far the largest tensors of
a step. Here they never exist whole: each stretch of rows is scored, and its gradient taken, while
it is in the processor's cache. Shapes: M rows, D features, V classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from unlabel.methods.parts.precision import full_precision

LOGITS = {"cpu": 2**22}
"""Logits held at once by kind of device; ``MANY`` elsewhere."""
MANY = 2**25


def linear_cross_entropy(
    features: Tensor, head: nn.Linear, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the cross-entropies of ``head(features)``.

    Under autocast the matrix products, like those of a linear layer, are of the lower precision;
    the cross-entropy and the sums are float32 always.

    Args:
        features: (M, D).
        head: from D to V, with a bias.
        targets: int64 (M,).
        weights: float (M,), which get no gradient.

    Returns:
        The scalar sum, and bool (M,): whether the target's logit is the largest.
    """
    dtype = _product_dtype(features)
    with full_precision(features):
        return _LinearCrossEntropy.apply(
            features, head.weight, head.bias, targets, weights, dtype, torch.is_grad_enabled()
        )


def _product_dtype(features: Tensor) -> torch.dtype | None:
    """The type that autocast gives matrix products, or ``None`` for the weights' own."""
    device = features.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        weights: Tensor,
        dtype: torch.dtype | None,
        learning: bool,
    ) -> tuple[Tensor, Tensor]:
        dtype = dtype or weight.dtype
        w, b = weight.to(dtype), bias.to(dtype)
        rows = max(1, LOGITS.get(features.device.type, MANY) // len(w))
        parts = [t.split(rows) for t in (features.to(dtype), targets[:, None], weights[:, None])]
        gradients = [torch.zeros_like(weight), torch.zeros_like(bias)]
        losses, rights, back = [], [], []
        for x, target, share in zip(*parts, strict=True):
            logits = torch.addmm(b, x, w.T)
            largest, guess = logits.max(1, keepdim=True)
            powers = (logits.float() - largest).exp_()
            total = powers.sum(1, keepdim=True)
            losses.append(total.log() + largest - logits.gather(1, target))
            rights.append(guess == target)
            if learning:
                slope = powers.mul_(share / total).scatter_add_(1, target, -share)
                gradients[1] += slope.sum(0)
                slope = slope.to(dtype)
                gradients[0] += slope.T @ x
                back.append(slope @ w)
        if learning:
            ctx.save_for_backward(torch.cat(back).to(features.dtype), *gradients)
        right = torch.cat(rights).squeeze(1)
        ctx.mark_non_differentiable(right)
        return weights @ torch.cat(losses).squeeze(1).to(weights.dtype), right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        gradients = (gradient * outer[0].to(gradient.dtype) for gradient in ctx.saved_tensors)
        return (*gradients, None, None, None, None)

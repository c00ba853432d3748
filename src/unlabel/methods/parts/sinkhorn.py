"""Equal shares for all prototypes: Sinkhorn and Knopp's iteration, as SwAV uses it.

Shapes: B rows of this process, Q rows that every process holds, K prototypes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlabel.methods.parts.gather import mean_over_all, processes
from unlabel.methods.parts.precision import full_precision


@torch.no_grad()
def sinkhorn(
    scores: Tensor, epsilon: float, iterations: int, shared: Tensor | None = None
) -> Tensor:
    """Soft codes (B, K) of rows that use all prototypes about equally; each code sums to one.

    Each iteration scales every prototype to the same mass over the rows of all processes, then
    every row to the same mass over prototypes (SwAV, section 3.1 and appendix A).

    Args:
        scores: (B, K), cosines. As they are at most one, exp((score - 1) / epsilon) is in range.
        epsilon: how soft the codes are; below 0.025 the exponential leaves float32.
        iterations: how many times both are done.
        shared: (Q, K), cosines of further rows that count once, such as those of a queue.
    """
    with full_precision(scores):
        rows = scores if shared is None else torch.cat([scores, shared])
        codes = ((rows.float() - 1) / epsilon).exp()
        ours, common = codes[: len(scores)], codes[len(scores) :]
        for _ in range(iterations):
            codes /= mean_over_all(ours.sum(0)) + common.sum(0) / processes()
            codes /= codes.sum(1, keepdim=True)
    return ours

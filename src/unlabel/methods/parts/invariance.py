"""RELIC's and RELICv2's loss: find the partner among candidates, and agree on the likelihoods.

Mitrovic et al. (arXiv 2010.07922) and Tomasev et al. (arXiv 2201.05119).

Shapes: B images of this process, G of all processes together, D features, K candidates, of which
the first is the partner.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding, normalize

from unlabel.methods.parts.gather import rank
from unlabel.methods.parts.precision import full_precision


def draw_candidates(images: int, total: int, negatives: int | None, seed: int) -> Tensor:
    """Which images of the whole batch each row is compared with, itself first: int64 (B, K).

    The negatives of a row are uniform among the others, without repetition: all rows of the batch
    take the same random distances, from themselves around the end of the batch. Every process
    draws the same.

    Args:
        images: B.
        total: G.
        negatives: how many; all others where ``None`` or where there are fewer.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    distances = torch.randperm(total - 1, generator=generator)[:negatives] + 1
    row = torch.arange(images) + rank() * images
    return (row[:, None] + torch.cat([torch.zeros(1, dtype=torch.int64), distances])) % total


def unit(rows: Tensor) -> Tensor:
    """Rows (B, D) as float32 vectors of length 1."""
    return normalize(rows.float(), dim=1)


def log_likelihoods(
    anchors: Tensor, partners: Tensor, candidates: Tensor, temperature: float
) -> Tensor:
    """Log-softmax over each row's candidates of cosine / temperature: (B, K).

    Args:
        anchors: (B, D), of unit length.
        partners: (G, D), likewise, of every process; see ``gather.from_all``.
        candidates: int64 (B, K), rows of ``partners``.
        temperature: what cosines are divided by.
    """
    with full_precision(anchors):
        if candidates.shape[1] == len(partners):  # one product is faster than that many copies
            scores = (anchors @ partners.T).gather(1, candidates)
        else:
            # Unlike partners[candidates], its gradient adds up in the same order every time.
            scores = torch.einsum("bd,bkd->bk", anchors, embedding(candidates, partners))
        return (scores / temperature).log_softmax(1)


def contrast_and_invariance(there: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms of the loss from two log-likelihoods (B, K) of the same candidates.

    Returns:
        -log p(partner), and KL(p || q) = sg[E_p log p] - E_p log q, with p of ``there`` and q of
        ``back``, each averaged over rows. The stop-gradient leaves the value as it is.
    """
    p = there.exp()
    entropy = (p * there).sum(1).detach()
    return -there[:, 0].mean(), (entropy - (p * back).sum(1)).mean()

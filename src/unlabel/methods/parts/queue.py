"""A queue of the latest embeddings, for methods that look beyond the batch.

Shapes: K rows kept, N rows asked about or added, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from unlabel.methods.parts.precision import full_precision

TOGETHER = 1024
"""Rows that are compared with the whole queue at once, which bounds the memory that it takes."""


class Queue(nn.Module):
    """The last ``size`` unit vectors added, first in, first out; random ones at the start.

    Its buffers are part of a checkpoint, and its place in the ring is a tensor, so that nothing
    waits for the device.
    """

    rows: Tensor
    place: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def nearest(self, queries: Tensor) -> Tensor:
        """The row of the queue with the highest cosine to each query: (N, D) to (N, D)."""
        with full_precision(queries):
            units = normalize(queries.detach().to(self.rows.dtype), dim=1)
            parts = [(part @ self.rows.T).argmax(1) for part in units.split(TOGETHER)]
            return self.rows[torch.cat(parts)]

    @torch.no_grad()
    def add(self, rows: Tensor) -> None:
        """Put the directions of ``rows`` (N, D) in place of the oldest ones."""
        size = len(self.rows)
        rows = normalize(rows.detach().to(self.rows.dtype)[-size:], dim=1)
        places = (self.place + torch.arange(len(rows), device=rows.device)) % size
        self.rows.index_copy_(0, places, rows)
        self.place.add_(len(rows)).remainder_(size)

"""Segments of images over the cells of a feature map: sampled, and averaged over.

Shapes: B images, h by w cells, M sampled segments, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlabel.methods.parts.gather import processes, rank

IDS = 256
"""Segments are numbered by a byte."""


def sample_ids(grid: Tensor, count: int, seed: int) -> Tensor:
    """Sample segments of each image, uniformly among those there are, with replacement.

    Args:
        grid: uint8 (B, h, w), the segment of each cell.
        count: M.
        seed: of the draw, the same in every process: each draws for all images and keeps its own.

    Returns:
        int64 (B, M), ids.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(processes(), len(grid), count, generator=generator)[rank()]
    cells = grid.flatten(1).long()
    there = torch.zeros(len(grid), IDS, dtype=torch.int64, device=grid.device)
    there.scatter_(1, cells, 1)
    order = there.cumsum(1)
    wanted = (draws.to(grid.device, non_blocking=True) * order[:, -1:]).floor().long() + 1
    return torch.searchsorted(order, wanted)


def pool(maps: Tensor, grid: Tensor, ids: Tensor) -> Tensor:
    """Mean feature over the cells of each sampled segment: (B, M, D).

    Args:
        maps: (B, D, h, w).
        grid: uint8 (B, h, w).
        ids: int64 (B, M), each of which has a cell.
    """
    masks = (grid.flatten(1)[:, None] == ids[:, :, None]).to(maps.dtype)
    return masks @ maps.flatten(2).mT / masks.sum(2, keepdim=True)

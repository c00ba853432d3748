"""Fixed two-dimensional sine-cosine positions, and the order of seen and hidden patches."""

from __future__ import annotations

import torch
from torch import Tensor

TEMPERATURE = 10_000.0


def sincos_2d(grid: tuple[int, int], dim: int) -> Tensor:
    """Positions of a grid's patches, (rows * columns, dim), row-major, as MAE lays them out.

    The first half of the features encodes the column, the second the row; each is sines, then
    cosines, of frequencies that fall geometrically from 1 to nearly 1 / 10,000. ``dim`` must be a
    multiple of 4.
    """
    rows, columns = (torch.arange(side, dtype=torch.float64) for side in grid)
    quarter = dim // 4
    frequency = TEMPERATURE ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    angles = [at.reshape(-1, 1) * frequency for at in (column, row)]
    return torch.cat([part for a in angles for part in (a.sin(), a.cos())], dim=1).float()


def seen_first(mask: Tensor) -> Tensor:
    """Patch indices of each image with the seen ones first, each part in its own order.

    Args:
        mask: bool (B, N), true where the patch is seen.

    Returns:
        int64 (B, N). With K patches seen in every image, ``[:, :K]`` are they: no waiting for the
        device to count.
    """
    return torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens (B, N, D) at ``index`` (B, K): (B, K, D)."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))

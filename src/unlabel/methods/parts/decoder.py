"""A light transformer that fills in hidden patches at the width of the encoder.

Shapes: B images, N patches of a grid, K of them seen, D features.
"""

from __future__ import annotations

import torch
from timm.layers import LayerNorm, trunc_normal_
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from unlabel.methods.parts.positions import sincos_2d


class InpaintingDecoder(nn.Module):
    """From seen tokens and a learnt mask token to a feature for every patch.

    Tokens stay in the order prefix, seen, hidden: attention does not mind, positions go with them,
    and a head can be spared what it does not score. Positions are fixed sine-cosine ones.

    Args:
        dim: features of a token, a multiple of 4 and of ``heads``.
        depth: number of transformer blocks.
        heads: attention heads of a block.
        grid: rows and columns of patches.
        prefix: tokens before the patches; they have no position.
        positions_on_seen: also give seen tokens their positions again.
    """

    positions: Tensor

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        grid: tuple[int, int],
        prefix: int,
        positions_on_seen: bool = True,
    ) -> None:
        super().__init__()
        self.prefix = prefix
        self.positions_on_seen = positions_on_seen
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(
            Block(dim, heads, qkv_bias=True, norm_layer=LayerNorm) for _ in range(depth)
        )
        self.norm = LayerNorm(dim)
        self.register_buffer("positions", sincos_2d(grid, dim), persistent=False)
        self.apply(_initialise)
        trunc_normal_(self.mask_token, std=0.02)

    def forward(self, seen: Tensor, order: Tensor) -> Tensor:
        """Normed features (B, prefix + N, D), in the order prefix, seen, hidden.

        Args:
            seen: (B, prefix + K, D), as the encoder gives them.
            order: int64 (B, N), the patches' indices with the seen ones first.
        """
        count = seen.shape[1] - self.prefix
        positions = self.positions[order]
        hidden = self.mask_token + positions[:, count:]
        if self.positions_on_seen:
            seen = seen + nn.functional.pad(positions[:, :count], (0, 0, self.prefix, 0))
        x = torch.cat([seen, hidden.to(seen.dtype)], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)

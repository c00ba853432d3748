"""BEiT: replace blocks of patches by a learnt token and predict their visual tokens.

Bao et al., "BEiT: BERT Pre-Training of Image Transformers" (arXiv 2106.08254).
"""

from __future__ import annotations

from math import sqrt
from typing import Any, ClassVar, cast

import torch
from pydantic import Field
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from unlabel.backbones.base import Backbone
from unlabel.config import OptimConfig, Scale, Settings
from unlabel.data.spec import Batch, Crops, MaskSpec, Photometric, ViewSpec
from unlabel.errors import ConfigError
from unlabel.methods.base import DataInfo, Losses, Method, Progress
from unlabel.methods.parts.positions import seen_first, take
from unlabel.methods.parts.tokenizers import TokenizerOptions, build_tokenizer
from unlabel.methods.parts.visual_tokens import token_loss

GROUP = "images"
PUBLISHED_PATCHES = 14 * 14

RECIPE = OptimConfig(
    lr=1.5e-3 * 256 / 2048,
    min_lr=1e-5 * 256 / 2048,
    betas=(0.9, 0.999),
    weight_decay=0.05,
    clip_grad=3.0,
    schedule="cosine",
    warmup=10 / 300,
)
"""BEiT's published optimiser settings for 300 epochs, which SplitMask shares."""


class BEiTOptions(TokenizerOptions):
    """Options of BEiT; the defaults are the paper's, but where they say otherwise."""

    mask_ratio: float = Field(75 / 196, gt=0, lt=1)
    """Share of the patches that is hidden: 75 of 196 in the paper."""
    min_block: int = Field(16, ge=1)
    """Smallest rectangle, in patches of a 14 by 14 grid; scaled with the grid's area (ours)."""
    max_block: int = Field(75, ge=1)
    """Largest rectangle, likewise."""
    exact: bool = True
    """Hide exactly that many patches. The paper's generator stops at or a little below it."""
    scale: Scale = (0.08, 1.0)
    """Share of the image's area that a crop covers."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    jitter: float | None = Field(None, ge=0, le=1)
    """Strength of the jitter of brightness, contrast and saturation: 0.4 when not given, none for
    images that are not RGB."""


class BEiT(Method):
    """Masked image modelling with visual tokens as the target and the whole sequence as the input.

    The recipe is the paper's: AdamW (0.9, 0.999), learning rate 1.5e-3 at 2,048 images (1.875e-4 at
    256), weight decay 0.05, warm-up over 10 of 300 epochs, cosine to 1e-5 at 2,048 images, gradient
    norm at most 3, drop path 0.1. The backbone is the plain ViT with absolute positions.
    """

    name: ClassVar[str] = "beit"
    needs: ClassVar[frozenset[str]] = frozenset({"mask"})
    recipe: ClassVar[OptimConfig] = RECIPE
    drop_path: ClassVar[float] = 0.1
    Options: ClassVar[type[Settings]] = BEiTOptions

    def __init__(self, backbone: Backbone, options: BEiTOptions, data: DataInfo) -> None:
        super().__init__(backbone, options, data)
        patches = backbone.grid[0] * backbone.grid[1]
        self.hidden = round(patches * options.mask_ratio)
        if not 0 < self.hidden < patches:
            raise ConfigError(
                f"options.mask_ratio {options.mask_ratio} hides {self.hidden} of {patches} "
                "patches; use a smaller --patch-size or another ratio"
            )
        self.tokenizer = build_tokenizer(options, backbone, data)
        embed = cast(PatchEmbed, backbone.net.patch_embed)
        self.cell = backbone.stride // embed.patch_size[0]
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed.proj.out_channels))
        self.head = nn.Linear(backbone.dim, self.tokenizer.vocabulary)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        scale_residuals(backbone)
        self.spec = _spec(backbone, options, patches - self.hidden)

    def prepare(self, pixels: Tensor) -> None:
        """Let the tokenizer learn from a sample of crops."""
        self.tokenizer.fit(pixels)

    def forward(self, batch: Batch, progress: Progress) -> Losses:
        """Cross-entropy of the hidden patches' tokens."""
        images = batch.views[GROUP][:, 0]
        seen = batch.masks[GROUP][:, 0]
        features = self.backbone.tokens(
            images, mask=self.enlarge(~seen), mask_token=self.mask_token
        )
        # The hidden ones come last; where a mask falls short, the few seen ones do not count.
        last = seen_first(seen)[:, -self.hidden :]
        predicted = take(features[:, self.backbone.prefix :], last).flatten(0, 1)
        targets = self.tokenizer.tokens(images).gather(1, last).flatten()
        counted = ~seen.gather(1, last).flatten()
        loss, scalars = token_loss(predicted, self.head, targets, counted)
        return Losses(loss, scalars | {"mim": loss.detach()})

    def enlarge(self, hidden: Tensor) -> Tensor:
        """A mask (B, N) over the last grid as one over the patches, which SwinV2 has more of."""
        cells = hidden.unflatten(1, self.backbone.grid)
        return cells.repeat_interleave(self.cell, 1).repeat_interleave(self.cell, 2).flatten(1)


def block_sizes(smallest: int, largest: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Sizes of rectangles, given for 196 patches, on another grid: at least one patch."""
    if smallest > largest:
        raise ConfigError(f"options.min_block {smallest} is above options.max_block {largest}")
    share = grid[0] * grid[1] / PUBLISHED_PATCHES
    return max(1, round(smallest * share)), max(1, round(largest * share))


@torch.no_grad()
def scale_residuals(backbone: Backbone) -> None:
    """Divide what each block of a random ViT adds by the root of twice its depth, as BEiT starts.

    Pretrained weights are left as they are.
    """
    net = backbone.net
    if backbone.pretrained or not isinstance(net, VisionTransformer):
        return
    blocks = cast(list[Any], net.blocks)
    for depth, block in enumerate(blocks, start=1):
        block.attn.proj.weight.div_(sqrt(2 * depth))
        block.mlp.fc2.weight.div_(sqrt(2 * depth))


def _spec(backbone: Backbone, options: BEiTOptions, visible: int) -> ViewSpec:
    strength = options.jitter
    if strength is None:
        strength = 0.4 if backbone.in_chans == 3 else 0.0
    photometric = Photometric(
        jitter_p=float(strength > 0), brightness=strength, contrast=strength, saturation=strength
    )
    crop = Crops(
        backbone.image_size, scale=options.scale, flip=options.flip, photometric=photometric
    )
    smallest, largest = block_sizes(options.min_block, options.max_block, backbone.grid)
    mask = MaskSpec("block", backbone.grid, (visible,), smallest, largest, exact=options.exact)
    return ViewSpec({GROUP: crop}, {GROUP: mask})

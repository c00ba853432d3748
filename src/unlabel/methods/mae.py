"""MAE: encode a quarter of the patches, decode the pixels of the rest.

He et al., "Masked Autoencoders Are Scalable Vision Learners" (arXiv 2111.06377).
"""

from __future__ import annotations

from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from timm.layers import LayerNorm
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from unlabel.backbones.base import Backbone
from unlabel.config import OptimConfig, Scale, Settings
from unlabel.data.spec import Batch, Crops, MaskSpec, ViewSpec
from unlabel.errors import ConfigError
from unlabel.methods.base import DataInfo, Losses, Method, Progress
from unlabel.methods.parts.pixels import patchify, standardise
from unlabel.methods.parts.positions import seen_first, sincos_2d, take

GROUP = "images"


class MAEOptions(Settings):
    """Options of MAE; the defaults are the paper's, but where they say otherwise."""

    mask_ratio: float = Field(0.75, gt=0, lt=1)
    """Share of the patches that is hidden; the number that is seen is rounded down."""
    norm_pix: bool = True
    """Standardise each target patch by its own mean and variance (the paper's best; its code has it
    off by default)."""
    decoder_dim: int | None = Field(None, ge=32, multiple_of=4)
    """Width of the decoder: two thirds of the encoder's, a multiple of 32, at most 512, when not
    given. That is the paper's 512 for ViT-B and L; the rule for smaller ones is ours."""
    decoder_depth: int | None = Field(None, ge=1)
    """Blocks of the decoder: two thirds of the encoder's, at most 8, when not given (8 from ViT-S
    on, as in the paper; the rule for smaller ones is ours)."""
    decoder_heads: int | None = Field(None, ge=1)
    """Attention heads of the decoder: one for each 32 of its width, when not given (16 for 512)."""
    positions: Literal["sincos", "learned"] = "sincos"
    """The encoder's positions: fixed sine-cosine, or the backbone's own, trained. Those of a
    pretrained backbone are kept either way, and frozen with ``sincos``."""
    scale: Scale = (0.2, 1.0)
    """Share of the image's area that a crop covers."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""


class MAE(Method):
    """Masked autoencoder with an encoder that sees only what is not hidden.

    The recipe is the paper's: AdamW (0.9, 0.95), base learning rate 1.5e-4 at 256 images, weight
    decay 0.05, warm-up over 40 of 800 epochs, cosine to zero, no clipping and no drop path.
    """

    name: ClassVar[str] = "mae"
    needs: ClassVar[frozenset[str]] = frozenset({"visible"})
    recipe: ClassVar[OptimConfig] = OptimConfig(
        lr=1.5e-4, betas=(0.9, 0.95), weight_decay=0.05, warmup=0.05, schedule="cosine"
    )
    Options: ClassVar[type[Settings]] = MAEOptions

    def __init__(self, backbone: Backbone, options: MAEOptions, data: DataInfo) -> None:
        super().__init__(backbone, options, data)
        patches = backbone.grid[0] * backbone.grid[1]
        self.visible = int(patches * (1 - options.mask_ratio))
        if not 0 < self.visible < patches:
            raise ConfigError(
                f"options.mask_ratio {options.mask_ratio} leaves {self.visible} of {patches} "
                "patches to see; use a smaller --patch-size or another ratio"
            )
        self.norm_pix = options.norm_pix
        self.decoder = Decoder(backbone, options)
        _initialise_encoder(backbone, options.positions)
        crop = Crops(backbone.image_size, scale=options.scale, flip=options.flip)
        mask = MaskSpec("random", backbone.grid, (self.visible,))
        self.spec = ViewSpec({GROUP: crop}, {GROUP: mask})

    def forward(self, batch: Batch, progress: Progress) -> Losses:
        """Mean squared error of the hidden patches' pixels."""
        images = batch.views[GROUP][:, 0]
        order = seen_first(batch.masks[GROUP][:, 0])
        latent = self.backbone.tokens(images, visible=order[:, : self.visible])
        predicted = self.decoder(latent, order)
        target = take(patchify(images, self.backbone.stride), order[:, self.visible :]).float()
        if self.norm_pix:
            target = standardise(target)
        return Losses((predicted.float() - target).square().mean())


class Decoder(nn.Module):
    """A light transformer from seen tokens and mask tokens to the pixels of hidden patches.

    Tokens stay in the order seen, hidden: attention does not mind, positions go with them, and the
    pixel head is spared what is not scored.
    """

    positions: Tensor

    def __init__(self, backbone: Backbone, options: MAEOptions) -> None:
        super().__init__()
        dim = options.decoder_dim or max(32, min(512, backbone.dim * 2 // 3 // 32 * 32))
        blocks = len(cast(VisionTransformer, backbone.net).blocks)
        depth = options.decoder_depth or max(1, min(8, blocks * 2 // 3))
        heads = options.decoder_heads or max(1, dim // 32)
        if dim % heads:
            raise ConfigError(
                f"options.decoder_dim {dim} is not a multiple of options.decoder_heads {heads}"
            )
        self.prefix = backbone.prefix
        self.embed = nn.Linear(backbone.dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(
            Block(dim, heads, qkv_bias=True, norm_layer=LayerNorm) for _ in range(depth)
        )
        self.norm = LayerNorm(dim)
        self.head = nn.Linear(dim, backbone.stride**2 * backbone.in_chans)
        self.register_buffer("positions", sincos_2d(backbone.grid, dim), persistent=False)
        self.apply(_xavier)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, latent: Tensor, order: Tensor) -> Tensor:
        """Pixels of the hidden patches, (B, N - K, p * p * C), of (B, prefix + K, D) tokens.

        ``order``: int64 (B, N), the seen patches first, as in ``latent``.
        """
        seen = latent.shape[1]
        tokens = self.embed(latent)
        hidden = self.prefix + order.shape[1] - seen
        masks = self.mask_token.expand(len(tokens), hidden, -1)
        # The prefix has zeros for positions.
        positions = nn.functional.pad(self.positions[order], (0, 0, self.prefix, 0))
        x = torch.cat([tokens, masks.to(tokens.dtype)], dim=1) + positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, seen:]))


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@torch.no_grad()
def _initialise_encoder(backbone: Backbone, positions: str) -> None:
    """Start a random encoder as the paper does; leave pretrained weights as they are."""
    net = cast(VisionTransformer, backbone.net)
    fixed = net.pos_embed if positions == "sincos" else None
    if fixed is not None:
        fixed.requires_grad_(False)
    if backbone.pretrained:
        return
    net.apply(_xavier)
    projection = net.patch_embed.proj.weight
    nn.init.xavier_uniform_(projection.view(len(projection), -1))
    if net.cls_token is not None:
        nn.init.normal_(net.cls_token, std=0.02)
    if fixed is not None:
        table = sincos_2d(backbone.grid, backbone.dim)
        fixed.zero_()[:, -len(table) :] = table

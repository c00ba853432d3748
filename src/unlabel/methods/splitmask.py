"""SplitMask: split an image's patches in two, inpaint each half from the other, match the two.

El-Nouby et al., "Are Large-scale Datasets Necessary for Self-Supervised Pre-training?"
(arXiv 2112.10740).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from timm.models import VisionTransformer
from torch import Tensor, nn

from unlabel.backbones.base import Backbone
from unlabel.config import OptimConfig, Scale, Settings
from unlabel.data.spec import Batch, Crops, MaskSpec, Photometric, ViewSpec
from unlabel.errors import ConfigError
from unlabel.methods.base import DataInfo, Losses, Method, Progress
from unlabel.methods.beit import RECIPE, block_sizes, scale_residuals
from unlabel.methods.parts.contrast import info_nce
from unlabel.methods.parts.decoder import InpaintingDecoder
from unlabel.methods.parts.positions import seen_first, sincos_2d
from unlabel.methods.parts.tokenizers import TokenizerOptions, build_tokenizer
from unlabel.methods.parts.visual_tokens import token_loss

GROUP = "images"
STRONG = Photometric(
    jitter_p=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.2,
    hue=0.1,
    grey_p=0.2,
    blur_p=0.5,
    solarize_p=0.2,
)
"""The paper names these operators for its smallest sets; the values are MoCo v3's, on average."""


class SplitMaskOptions(TokenizerOptions):
    """Options of SplitMask; the defaults are the paper's, but where they say otherwise."""

    split: Literal["block", "random"] = "block"
    """``block`` hides rectangles from the first branch, as BEiT does; ``random`` draws patches
    uniformly, as the paper does for its smallest sets."""
    visible: tuple[float, float] = (0.5, 0.5)
    """Share of the patches that each branch sees, disjoint. The paper hides 75 % for its smallest
    sets and does not say how two branches arise then: (0.25, 0.25) or (0.25, 0.75)."""
    min_block: int = Field(16, ge=1)
    """Smallest rectangle, in patches of a 14 by 14 grid; scaled with the grid's area (ours)."""
    max_block: int = Field(75, ge=1)
    """Largest rectangle, likewise."""
    decoder_depth: int = Field(2, ge=1)
    """Blocks of the decoder, which is as wide as the encoder."""
    decoder_heads: int | None = Field(None, ge=1)
    """Attention heads of the decoder; the encoder's when not given (not given in the paper)."""
    decoder_positions: bool = True
    """Add positions again to the seen tokens, beside the mask tokens'; not given in the paper."""
    match_weight: float = Field(1.0, ge=0)
    """Weight of the matching loss beside the inpainting loss; not given in the paper."""
    temperature: float = Field(0.2, gt=0)
    """What the matching scores are divided by."""
    normalise: bool = True
    """Match directions instead of plain products; not given in the paper."""
    negatives: Literal["other", "both"] = "other"
    """Whose descriptors of other images are negatives: the other branch's, or those of both; not
    given in the paper."""
    positions: Literal["learned", "sincos"] = "learned"
    """How the encoder's trained positions start: small and random (BEiT's), or as sine-cosine, from
    which short runs learn sooner (ours). Those of a pretrained backbone are kept."""
    projector_layers: int = Field(0, ge=0, le=4)
    """Layers between descriptor and matching; the paper mentions none."""
    scale: Scale = (0.08, 1.0)
    """Share of the image's area that a crop covers (BEiT's; the paper cuts the upper end to 0.25
    for scenes like ADE20K's)."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    colour: bool = False
    """Jitter, grey, blur and solarisation, which the paper adds for its smallest sets; it does not
    give their strength."""


class SplitMask(Method):
    """Two branches, each of which encodes its own patches and predicts the tokens of the others.

    The recipe is BEiT's, as the paper says: AdamW (0.9, 0.999), learning rate 1.5e-3 at 2,048
    images (1.875e-4 at 256), weight decay 0.05, warm-up over 10 of 300 epochs, cosine to 1e-5 at
    2,048 images, gradient norm at most 3, drop path 0.1.
    """

    name: ClassVar[str] = "splitmask"
    needs: ClassVar[frozenset[str]] = frozenset({"visible"})
    recipe: ClassVar[OptimConfig] = RECIPE
    drop_path: ClassVar[float] = 0.1
    short_run: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "model.drop_path": 0.0,
            "optim.lr": 2e-3,
            "optim.betas": (0.9, 0.95),
            "options.tokenizer": "k-means",
            "options.vocabulary": 128,
            "options.positions": "sincos",
            "options.projector_layers": 2,
            "options.temperature": 0.1,
            "options.scale": (0.9, 1.0),
        }
    )
    Options: ClassVar[type[Settings]] = SplitMaskOptions

    def __init__(self, backbone: Backbone, options: SplitMaskOptions, data: DataInfo) -> None:
        super().__init__(backbone, options, data)
        self.options = options
        self.visible = _counts(backbone.grid[0] * backbone.grid[1], options.visible)
        self.tokenizer = build_tokenizer(options, backbone, data)
        self.decoder = _decoder(backbone, options)
        self.head = nn.Linear(backbone.dim, self.tokenizer.vocabulary)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.projector = _projector(backbone.dim, options.projector_layers)
        scale_residuals(backbone)
        if options.positions == "sincos" and not backbone.pretrained:
            _start_at_sincos(backbone)
        photometric = STRONG if options.colour else Photometric()
        crop = Crops(
            backbone.image_size, scale=options.scale, flip=options.flip, photometric=photometric
        )
        smallest, largest = block_sizes(options.min_block, options.max_block, backbone.grid)
        mask = MaskSpec(options.split, backbone.grid, self.visible, smallest, largest)
        self.spec = ViewSpec({GROUP: crop}, {GROUP: mask})

    def prepare(self, pixels: Tensor) -> None:
        """Let the tokenizer learn from a sample of crops."""
        self.tokenizer.fit(pixels)

    def forward(self, batch: Batch, progress: Progress) -> Losses:
        """Inpainting of both branches' hidden patches, and matching of their descriptors."""
        images = batch.views[GROUP][:, 0]
        orders = [seen_first(part) for part in batch.masks[GROUP].unbind(1)]
        hidden, descriptors = self.branches(images, orders)
        tokens = self.tokenizer.tokens(images)
        pairs = zip(orders, self.visible, strict=True)
        targets = [tokens.gather(1, order[:, seen:]).flatten() for order, seen in pairs]
        mim, scalars = token_loss(hidden, self.head, torch.cat(targets))
        options = self.options
        first, second = self.projector(descriptors).chunk(2)
        match, accuracy = info_nce(
            first, second, options.temperature, options.normalise, options.negatives
        )
        scalars |= {"mim": mim.detach(), "match": match.detach(), "match_accuracy": accuracy}
        return Losses(mim + options.match_weight * match, scalars)

    def branches(self, images: Tensor, orders: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Features of every hidden patch, and the branches' descriptors.

        Branches that see equally many patches go through the networks as one batch.

        Args:
            images: (B, C, H, W), normalised.
            orders: for each branch, int64 (B, N), the patches that it sees first.

        Returns:
            (M, D), branch by branch, image by image, in the branches' order; and (2B, D), the mean
            of all decoder outputs (class token and all patches), first branch first.
        """
        groups = list(zip([images] * 2, orders, self.visible, strict=True))
        if self.visible[0] == self.visible[1]:
            groups = [(images.repeat(2, 1, 1, 1), torch.cat(orders), self.visible[0])]
        hidden, descriptors = [], []
        for pixels, order, seen in groups:
            latent = self.backbone.tokens(pixels, visible=order[:, :seen])
            decoded = self.decoder(latent, order)
            hidden.append(decoded[:, self.backbone.prefix + seen :].flatten(0, 1))
            descriptors.append(decoded.mean(1))
        return torch.cat(hidden), torch.cat(descriptors)


@torch.no_grad()
def _start_at_sincos(backbone: Backbone) -> None:
    """Give the patches' position embeddings sine-cosine values; they stay trainable."""
    net = cast(VisionTransformer, backbone.net)
    if net.pos_embed is None:
        raise ConfigError("options.positions sincos: this backbone has no position embeddings")
    table = sincos_2d(backbone.grid, backbone.dim)
    net.pos_embed[:, -len(table) :] = table


def _counts(patches: int, shares: tuple[float, float]) -> tuple[int, int]:
    """Patches that each branch sees: rounded, and all of them where the shares add up to one."""
    first = round(patches * shares[0])
    whole = abs(sum(shares) - 1) < 1e-6
    second = patches - first if whole else round(patches * shares[1])
    if min(first, second) < 1 or first + second > patches:
        raise ConfigError(
            f"options.visible {shares} lets the branches see {first} and {second} of {patches} "
            "patches: both need one or more, and they must not overlap. Use shares that add up to "
            "1 or less, or a smaller --patch-size"
        )
    return first, second


def _decoder(backbone: Backbone, options: SplitMaskOptions) -> InpaintingDecoder:
    blocks = cast(list[Any], backbone.net.blocks)
    heads = options.decoder_heads or int(blocks[0].attn.num_heads)
    if backbone.dim % heads:
        raise ConfigError(
            f"options.decoder_heads {heads} does not divide the encoder's width {backbone.dim}"
        )
    return InpaintingDecoder(
        backbone.dim,
        options.decoder_depth,
        heads,
        backbone.grid,
        backbone.prefix,
        options.decoder_positions,
    )


def _projector(dim: int, layers: int) -> nn.Sequential:
    """Linear layers of the same width with GELU between them; nothing for no layers."""
    parts: list[nn.Module] = []
    for layer in range(layers):
        parts += [nn.GELU()] * (layer > 0) + [nn.Linear(dim, dim)]
    return nn.Sequential(*parts)

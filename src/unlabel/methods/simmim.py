"""SimMIM: hide large cells, see everything else at full size, predict raw pixels with one layer.

Xie et al., "SimMIM" (arXiv 2111.09886), as used with SwinV2 in "On Data Scaling in Masked Image
Modeling" (CVPR 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, log
from types import MappingProxyType
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from timm.layers import PatchEmbed
from torch import Tensor, nn

from unlabel.backbones.base import Backbone
from unlabel.config import OptimConfig, Scale, Settings
from unlabel.data.spec import Batch, Crops, MaskSpec, ViewSpec
from unlabel.errors import ConfigError
from unlabel.methods.base import DataInfo, Losses, Method, Progress
from unlabel.methods.parts.pixels import local_standardise, unpatchify

GROUP = "images"


class SimMIMOptions(Settings):
    """Options of SimMIM; the defaults are those of the study's released configuration."""

    mask_ratio: float = Field(0.6, gt=0, lt=1)
    """Share of the cells that is hidden; their number is rounded up."""
    mask_cell: int | None = Field(None, ge=1)
    """Side of a mask cell in pixels. When not given: 32 for crops of 128 pixels and more (as
    published), a sixth of the crop for smaller ones (the same 6 by 6 cells as at 192 pixels; ours),
    to the nearest size that whole patches fill and that divides the crop."""
    target: Literal["pixels", "local"] = "pixels"
    """``local`` standardises each pixel by the window around it. The released SwinV2-B
    configuration does; whether the study's runs did was not published."""
    window: int | None = Field(None, ge=3)
    """Side of that window in pixels, odd: 47 at 192 pixels, scaled with the crop, when not given
    (the scaling is ours)."""
    scale: Scale = (0.67, 1.0)
    """Share of the image's area that a crop covers."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""


class SimMIM(Method):
    """Masked image modelling with full-size input and a linear head.

    The recipe is the study's: AdamW (0.9, 0.999), base learning rate 1e-4 at 512 images, weight
    decay 0.05, gradient norm at most 5, constant for 7/8 of the run, then a tenth; warm-up over
    6,250 of 500,000 steps (for its shorter runs it was not published), and drop path 0.1.
    """

    name: ClassVar[str] = "simmim"
    needs: ClassVar[frozenset[str]] = frozenset({"mask"})
    recipe: ClassVar[OptimConfig] = OptimConfig(
        lr=5e-5,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        clip_grad=5.0,
        schedule="step",
        warmup=0.0125,
    )
    drop_path: ClassVar[float] = 0.1
    short_run: ClassVar[Mapping[str, Any]] = MappingProxyType({"optim.lr": 8e-3})
    Options: ClassVar[type[Settings]] = SimMIMOptions

    def __init__(self, backbone: Backbone, options: SimMIMOptions, data: DataInfo) -> None:
        super().__init__(backbone, options, data)
        embed = cast(PatchEmbed, backbone.net.patch_embed)
        size, patch = backbone.image_size, embed.patch_size[0]
        self.cell = _cell(size, patch, options.mask_cell)
        self.patches_a_cell = self.cell // patch
        side = size // self.cell
        visible = side**2 - ceil(side**2 * options.mask_ratio)
        if visible == 0:
            raise ConfigError(
                f"options.mask_ratio {options.mask_ratio} hides all {side**2} cells of "
                f"{self.cell} pixels; use a smaller options.mask_cell or another ratio"
            )
        self.window = _window(size, options) if options.target == "local" else None
        self.mask_token = nn.Parameter(torch.zeros(1, 1, embed.proj.out_channels))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.head = nn.Linear(backbone.dim, backbone.stride**2 * backbone.in_chans)
        crop = Crops(size, scale=options.scale, flip=options.flip, interpolation="bilinear")
        self.spec = ViewSpec({GROUP: crop}, {GROUP: MaskSpec("random", (side, side), (visible,))})

    def forward(self, batch: Batch, progress: Progress) -> Losses:
        """Mean absolute error over the hidden cells' pixels and channels."""
        images = batch.views[GROUP][:, 0]
        side = images.shape[-1] // self.cell
        hidden = ~batch.masks[GROUP][:, 0].reshape(-1, side, side)
        mask = enlarge(hidden, self.patches_a_cell).flatten(1)
        tokens = self.backbone.tokens(images, mask=mask, mask_token=self.mask_token)
        patches = self.head(tokens[:, self.backbone.prefix :])
        predicted = unpatchify(patches, self.backbone.stride, self.backbone.grid).float()
        target = images.float()
        if self.window is not None:
            target = local_standardise(target, self.window)
        return Losses(masked_l1(predicted, target, enlarge(hidden, self.cell)))

    def no_weight_decay(self) -> set[str]:
        """The mask token; timm exempts SwinV2's position networks and attention scales."""
        return {"mask_token"}


def enlarge(cells: Tensor, factor: int) -> Tensor:
    """Each cell of (B, h, w) as a block of ``factor`` by ``factor``: (B, h * f, w * f)."""
    return cells.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def masked_l1(predicted: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Absolute error of (B, C, H, W) over the pixels where ``hidden`` (B, H, W) is true.

    The sum over hidden pixels, divided by their number (plus 1e-5) and by the channels.
    """
    weight = hidden[:, None].to(predicted.dtype)
    error = ((predicted - target).abs() * weight).sum()
    return error / (weight.sum() + 1e-5) / predicted.shape[1]


def _cell(size: int, patch: int, asked: int | None) -> int:
    """Side of a mask cell: as asked, or the fitting one nearest (in ratio) to the rule's."""
    fitting = [c for c in range(patch, size // 2 + 1, patch) if size % c == 0]
    if asked is None and fitting:
        wanted = 32 if size >= 128 else size / 6
        return min(fitting, key=lambda c: abs(log(c / wanted)))
    if asked in fitting:
        return asked
    raise ConfigError(
        f"options.mask_cell {asked} does not fit crops of {size} pixels and patches of {patch}: "
        f"possible are {', '.join(map(str, fitting)) or 'none, use a smaller --patch-size'}"
    )


def _window(size: int, options: SimMIMOptions) -> int:
    """The local target's window: as asked, or the odd number nearest to 47/192 of the crop."""
    if options.window is None:
        return max(3, 2 * round((size * 47 / 192 - 1) / 2) + 1)
    if options.window % 2 == 0:
        raise ConfigError(f"options.window must be odd, to have a centre (came: {options.window})")
    return options.window

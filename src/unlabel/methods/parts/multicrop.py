"""Views to match: large crops and, where a method has them, small ones, with a colour recipe.

Shapes: B images, C channels, H by W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from unlabel.backbones.base import Backbone
from unlabel.config import Scale, Settings
from unlabel.data.recipes import RECIPES
from unlabel.data.spec import Batch, Crops, ViewSpec
from unlabel.errors import ConfigError
from unlabel.methods.base import DataInfo

Colours = Literal["none", "simclr", "byol", "mocov3", "swav", "dino"]
LARGE, SMALL = "large", "small"
SMALL_SHARE = 96 / 224
"""Side of a small crop over that of a large one, in SwAV, DINO and RELICv2."""


class ViewOptions(Settings):
    """Options of the two large crops that every view-matching method has."""

    colours: Colours = "byol"
    """Colour recipe of that paper; BYOL's, MoCo v3's and DINO's differ between the two crops."""
    strength: float = Field(1.0, ge=0, le=1)
    """Factor of the jitter; SimCLR uses 0.5 for CIFAR-10."""
    blur: bool = True
    """Whether the recipe's blur is used; SimCLR leaves it out for CIFAR-10."""
    scale: Scale = (0.08, 1.0)
    """Share of the image's area that a large crop covers."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""


class MultiCropOptions(ViewOptions):
    """Options of methods that match small crops as well."""

    large: int = Field(2, ge=2)
    """Large crops of each image."""
    small: int = Field(0, ge=0)
    """Small crops of each image."""
    small_size: int | None = Field(None, ge=8)
    """Side of a small crop in pixels; 96/224 of the large one's when not given."""
    small_scale: Scale = (0.05, 0.14)
    """Share of the image's area that a small crop covers."""


def view_spec(options: ViewOptions, backbone: Backbone, data: DataInfo) -> ViewSpec:
    """The crops that ``options`` ask for; colours that the images do not have are left out.

    Raises:
        ConfigError: the backbone cannot take small crops of the size that was asked for.
    """
    recipe = RECIPES[options.colours].adapted(
        strength=options.strength,
        blur=options.blur,
        channels=len(data.mean),
        floats=data.floats,
    )
    size, count = backbone.image_size, getattr(options, "large", 2)
    large = Crops(size, scale=options.scale, flip=options.flip)
    kinds = recipe.large[:count]
    crops = {
        f"{LARGE}_{i}": replace(large, count=len(range(i, count, len(kinds))), photometric=colours)
        for i, colours in enumerate(kinds)
    }
    if isinstance(options, MultiCropOptions) and options.small:
        crops[SMALL] = Crops(
            _small_size(options.small_size, backbone),
            count=options.small,
            scale=options.small_scale,
            flip=options.flip,
            photometric=recipe.small,
        )
    return ViewSpec(crops)


def _small_size(asked: int | None, backbone: Backbone) -> int:
    """The published share of the large side, in whole patches; all of it for fixed windows."""
    unit, size = backbone.crop_unit, backbone.image_size
    if asked is None:
        share = size if unit is None else round(size * SMALL_SHARE / unit) * unit
        return max(unit or 1, backbone.least, share)
    if asked != size and (unit is None or asked % unit):
        able = f"multiples of {unit}" if unit else f"{size}, the size of its windows"
        raise ConfigError(f"small_size: {asked} pixels do not suit this backbone; it takes {able}")
    if asked < backbone.least:
        raise ConfigError(
            f"small_size: {asked} pixels are too few for this backbone, which takes crops of at "
            f"least {backbone.least} (or fewer with a larger model.enlarge)"
        )
    return asked


def large_crops(batch: Batch) -> list[Tensor]:
    """The large crops, each (B, C, H, W), by recipe: those of the first, then of the second."""
    groups = [views for name, views in batch.views.items() if name.startswith(LARGE)]
    return [crop for views in groups for crop in views.unbind(1)]


def small_crops(batch: Batch) -> list[Tensor]:
    """The small crops, each (B, C, h, w); none if the method asked for none."""
    return list(batch.views[SMALL].unbind(1)) if SMALL in batch.views else []


def encode(network: Callable[[Tensor], Tensor], crops: list[Tensor]) -> list[Tensor]:
    """What ``network`` makes of each crop, in one pass for all, which must be of one size."""
    return list(network(torch.cat(crops)).chunk(len(crops))) if crops else []

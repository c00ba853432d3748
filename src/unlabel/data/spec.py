"""What a method asks of an image (crops, colours, masks) and what it gets: a batch.

Shapes: B images, V crops of a group, C channels, H by W pixels, N patches, P parts of a mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Photometric:
    """A colour recipe: each image of a view draws its own parameters.

    Probabilities ``*_p`` lie in [0, 1]. ``brightness``, ``contrast`` and ``saturation`` are the
    half-widths of a factor around 1 (0.4 draws from [0.6, 1.4]); ``hue`` is the half-width of a
    shift in turns (at most 0.5). The four jitter operators come in random order, as in torchvision.
    With ``additive_brightness`` the brightness is instead an offset within ``brightness`` of 0.
    ``blur_sigma`` is in pixels of a 224-pixel crop and scales with the crop's size.
    ``solarize_threshold`` is a brightness in [0, 1].
    """

    jitter_p: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    additive_brightness: bool = False
    grey_p: float = 0.0
    blur_p: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_p: float = 0.0
    solarize_threshold: float = 0.5

    @property
    def is_identity(self) -> bool:
        """Whether the recipe never changes a pixel."""
        return not (self.jitter_p or self.grey_p or self.blur_p or self.solarize_p)


@dataclass(frozen=True)
class BackgroundRemoval:
    """A coin for each crop: with probability ``p`` only the foreground's pixels stay.

    What lies outside the stored foreground mask becomes black (``zero``), the store's mean
    (``mean``), one random grey a crop (``grey``) or a blurred copy (``blur``). An image without a
    mask stays whole, and so does a crop that its foreground does not reach.
    """

    p: float
    fill: Literal["zero", "mean", "grey", "blur"] = "zero"


@dataclass(frozen=True)
class Crops:
    """A named group of random resized crops of one image.

    ``count`` crops of ``size`` by ``size`` pixels. ``scale`` is the share of the image's area that
    a crop covers, ``ratio`` its width over its height (drawn log-uniformly), ``flip`` the
    probability of a horizontal flip. ``segments`` is the side of the square grid, over each crop,
    in which the store's segments are wanted; ``None`` for not at all.
    """

    size: int
    count: int = 1
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    photometric: Photometric = Photometric()
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    background: BackgroundRemoval | None = None
    segments: int | None = None


@dataclass(frozen=True)
class MaskSpec:
    """Which patches of a group's crop each part sees.

    ``grid`` is the number of patches (rows, columns). ``visible`` gives, for each part, how many
    patches it sees: ``(49,)`` is MAE's one part, ``(98, 98)`` is SplitMask's two disjoint halves.
    Parts never overlap; what is left over nobody sees.

    ``kind="random"`` draws patches uniformly. ``kind="block"`` draws BEiT's rectangles for what the
    *first* part does not see; rectangles have ``min_block`` to ``max_block`` patches and an aspect
    ratio drawn log-uniformly from ``aspect``. With ``exact=False`` a block mask may hide fewer
    patches than asked for, as BEiT's own generator does; several parts need ``exact=True``.
    """

    kind: Literal["random", "block"]
    grid: tuple[int, int]
    visible: tuple[int, ...]
    min_block: int = 16
    max_block: int = 75
    aspect: tuple[float, float] = (0.3, 1 / 0.3)
    exact: bool = True

    @property
    def patches(self) -> int:
        """Number of patches of the grid."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class ViewSpec:
    """Everything a method wants of an image: groups of crops by name, and masks by group."""

    crops: Mapping[str, Crops]
    masks: Mapping[str, MaskSpec] = field(default_factory=dict)


@dataclass
class Batch:
    """One step's images, the same for any number of workers or processes.

    ``views[group]``: (B, V, C, H, W), float and normalised when a method sees it.
    ``masks[group]``: bool (B, P, N), true where the part sees the patch; patches row-major.
    ``ids``: int64 (B,), each image's row in the whole store, on the processor. ``labels``: int64
    (B,) or ``None``; -1 marks an image without a label.
    """

    views: dict[str, Tensor]
    masks: dict[str, Tensor]
    ids: Tensor
    labels: Tensor | None = None
    colours: dict[str, Tensor] = field(default_factory=dict)
    """Per-image parameters of the photometric recipes until they are applied, (B, V, K)."""
    segments: dict[str, Tensor] = field(default_factory=dict)
    """Of the groups that want them: uint8 (B, V, S, S), the id of the segment that fills most of
    each cell of an S by S grid over the crop. Ids are of the image, the same in all its crops."""

    def to(self, device: torch.device | str) -> Batch:
        """The batch on ``device``; copies overlap with computation where memory is pinned.

        ``ids`` and ``colours`` stay on the processor, which decides by them what to ask of the
        device without waiting for it.
        """

        def move(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: t.to(device, non_blocking=True) for name, t in tensors.items()}

        return replace(
            self,
            views=move(self.views),
            masks=move(self.masks),
            segments=move(self.segments),
            labels=None if self.labels is None else self.labels.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; called by torch's data loader."""

        def pin(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: t.pin_memory() for name, t in tensors.items()}

        return replace(
            self, views=pin(self.views), masks=pin(self.masks), segments=pin(self.segments)
        )

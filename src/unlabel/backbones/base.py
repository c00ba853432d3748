"""What every backbone offers: a timm model read as tokens, as a map and as a vector.

Shapes: B images, C channels, N patches (row-major over ``grid``), K visible patches, D features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unlabel.errors import ConfigError


class Backbone(nn.Module, ABC):
    """A thin reading of the timm model ``net``, which stays loadable by timm alone.

    Attributes:
        net: the timm model, without a classifier.
        dim: features of a token and of the pooled vector.
        grid: rows and columns of patches (or of the last map) at ``image_size``.
        stride: pixels from one patch (or map cell) to the next.
        prefix: number of tokens before the patches (class and register tokens).
        serves: what a method may ask of ``tokens``: ``"visible"`` and ``"mask"``.
        pretrained: whether it started from weights, which a method must not initialise anew.
        architecture: name under which timm builds ``net``.
        model_args: arguments with which timm builds it, all fit for JSON.
        mean: of the pixels, in [0, 1], that its weights were trained with, a value a channel; where
            known.
        std: likewise.
        crop_unit: pixels of which the side of a crop of another size must be a multiple; ``None``
            if the network takes crops of ``image_size`` only.
        least: smallest side of a crop, in pixels.
        enlarge: how many times images are enlarged before ``net`` sees them.
    """

    serves: ClassVar[frozenset[str]] = frozenset()
    pretrained: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    least: int = 1
    enlarge: int = 1
    crop_unit: int | None = None

    net: nn.Module
    dim: int
    grid: tuple[int, int]
    stride: int
    prefix: int
    image_size: int
    in_chans: int
    architecture: str
    model_args: dict[str, Any]

    @abstractmethod
    def tokens(
        self,
        images: Tensor,
        visible: Tensor | None = None,
        mask: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> Tensor:
        """Encode images to tokens after the last norm.

        Args:
            images: (B, C, H, W), normalised.
            visible: int64 (B, K), indices of the patches to encode; the others cost nothing.
            mask: bool (B, N), true where a patch embedding is replaced by ``mask_token`` before
                position embeddings are added.
            mask_token: (1, 1, E), E the width of the patch embedding; given with ``mask``.

        Returns:
            (B, prefix + N, D), or (B, prefix + K, D) with ``visible``. Swin's N is that of its
            last, coarser grid.

        Raises:
            ConfigError: the network cannot do what is asked (see ``serves``).
        """

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """One vector an image, (B, D): what kNN, linear probes and users take.

        Images may be of another size than ``image_size`` if ``crop_unit`` allows it.
        """

    @abstractmethod
    def embed_and_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The vector of ``embed`` and dense features (B, D, h, w) of the last stage, in one pass.

        Sizes are as for ``embed``.
        """

    def feature_map(self, images: Tensor) -> Tensor:
        """Dense features (B, D, h, w) of the last stage; sizes are as for ``embed``."""
        return self.embed_and_map(images)[1]


def replace_masked(patches: Tensor, mask: Tensor | None, mask_token: Tensor | None) -> Tensor:
    """Patch embeddings (B, ..., E) with ``mask_token`` where ``mask`` (B, N) is true.

    Raises:
        ConfigError: one of ``mask`` and ``mask_token`` came without the other.
    """
    if mask is None and mask_token is None:
        return patches
    if mask is None or mask_token is None:
        raise ConfigError("tokens() takes mask and mask_token together")
    hidden = mask.reshape(*patches.shape[:-1], 1)
    return torch.where(hidden, mask_token.reshape(-1).to(patches.dtype), patches)

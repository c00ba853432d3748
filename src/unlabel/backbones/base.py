"""What every backbone offers: a timm model read as tokens, as a map and as a vector.

Shapes: B images, C channels, N patches (row-major over ``grid``), K visible patches, D features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn


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
    """

    serves: ClassVar[frozenset[str]] = frozenset()
    pretrained: bool = False

    net: nn.Module
    dim: int
    grid: tuple[int, int]
    stride: int
    prefix: int
    image_size: int
    in_chans: int

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
    def feature_map(self, images: Tensor) -> Tensor:
        """Dense features (B, D, h, w) of the last stage."""

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """One vector an image, (B, D): what kNN, linear probes and users take."""

"""ResNets: maps and vectors, no tokens."""

from __future__ import annotations

from math import ceil
from typing import Any

import torch
from timm.models.resnet import ResNet as TimmResNet
from timm.models.resnetv2 import ResNetV2 as TimmResNetV2
from torch import Tensor, nn

from unlabel.backbones.base import Backbone
from unlabel.errors import ConfigError

SMALL = 64
"""Up to this image size, in pixels, images are enlarged."""


class ResNet(Backbone):
    """A timm ``ResNet``, or a ``ResNetV2`` (the class that timm has width multipliers in).

    Their stem halves the image twice, which leaves 32 pixels with a last map of a single cell.
    Other codes give small images a stem of their own, 3 by 3 with stride 1 and no pooling, with
    which no timm model can be loaded. Here images of up to 64 pixels are instead repeated 2, 4, ...
    times in height and width, to at most 128 pixels, so that the first stage sees one cell a pixel
    (at 32 pixels) just as with that stem, and the same timm network takes small and large images.
    ``enlarge`` chooses another factor.

    Crops are so large that no stage halves a map of one cell: that would do nothing, and where the
    map is narrower than the stride, oneDNN leaves those weight gradients of a bfloat16 convolution
    unset which see the padding alone (torch 2.14 on a processor with AVX512-BF16).
    """

    net: TimmResNet | TimmResNetV2

    def __init__(
        self, net: TimmResNet | TimmResNetV2, image_size: int, enlarge: int | None = None
    ) -> None:
        """Read ``net`` at ``image_size`` pixels.

        Raises:
            ConfigError: the images are too small for its strides.
        """
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)  # convolutions are fastest so
        last: Any = net.feature_info[-1]
        reduction: int = last["reduction"]
        self.crop_unit = 1
        self.enlarge = enlarge or enlargement(image_size)
        self.least = reduction // (2 * self.enlarge) + 1
        if image_size < self.least:
            raise ConfigError(
                f"model.image_size {image_size}: this ResNet halves the image until less than a "
                f"cell is left. Use at least {self.least} pixels, or a larger model.enlarge than "
                f"{self.enlarge}."
            )
        self.dim = net.num_features
        self.stride = reduction // self.enlarge
        self.grid = (ceil(image_size * self.enlarge / reduction),) * 2
        self.prefix = 0
        self.image_size = image_size
        self.in_chans = net.in_chans

    def tokens(
        self,
        images: Tensor,
        visible: Tensor | None = None,
        mask: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> Tensor:
        """Refuse: convolutions have no tokens.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "a ResNet has no tokens to hide or to mask; use feature_map() or embed(), or a ViT"
        )

    def embed(self, images: Tensor) -> Tensor:
        """Mean of the last map, (B, D)."""
        return self.net(self._enlarged(images))

    def embed_and_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of the last map, and that map, (B, D, h, w)."""
        features = self.net.forward_features(self._enlarged(images))
        return self.net.forward_head(features), features

    def _enlarged(self, images: Tensor) -> Tensor:
        if self.enlarge == 1:
            return images
        return nn.functional.interpolate(images, scale_factor=self.enlarge, mode="nearest")


def enlargement(image_size: int) -> int:
    """How many times small images are repeated: a power of two, to at most 128 pixels."""
    return 1 if image_size > SMALL else 1 << ((128 // image_size).bit_length() - 1)

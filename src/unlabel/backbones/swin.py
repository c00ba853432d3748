"""SwinV2: windowed attention over a grid that is halved from stage to stage."""

from __future__ import annotations

from typing import ClassVar

from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor

from unlabel.backbones.base import Backbone, replace_masked
from unlabel.errors import ConfigError


class SwinV2(Backbone):
    """A timm ``SwinTransformerV2``.

    Masks are given on the grid of ``net.patch_embed`` (48 by 48 for 192 pixels and patches of 4);
    the tokens that come back are those of the last stage (6 by 6), which ``grid`` and ``stride``
    describe. There is no prefix. ``embed`` is the mean of the tokens after the norm.
    """

    serves: ClassVar[frozenset[str]] = frozenset({"mask"})
    net: SwinTransformerV2

    def __init__(self, net: SwinTransformerV2) -> None:
        super().__init__()
        self.net = net
        self.dim = net.num_features
        self.stride = net.feature_info[-1]["reduction"]
        self.prefix = 0
        self.image_size = net.patch_embed.img_size[0]
        self.grid = (self.image_size // self.stride,) * 2
        self.in_chans = net.in_chans

    def tokens(
        self,
        images: Tensor,
        visible: Tensor | None = None,
        mask: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> Tensor:
        """Encode as the base class says; windows need all patches, so not ``visible``."""
        if visible is not None:
            raise ConfigError("SwinV2 cannot leave patches out: its windows need them all")
        x = replace_masked(self.net.patch_embed(images), mask, mask_token)
        return self.net.norm(self.net.layers(x)).flatten(1, 2)

    def embed(self, images: Tensor) -> Tensor:
        """Mean of the last map, (B, D)."""
        return self.net(images)

    def embed_and_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of the last map after the norm, and that map, (B, D, h, w)."""
        features = self.net.forward_features(images)
        return self.net.forward_head(features), features.permute(0, 3, 1, 2)

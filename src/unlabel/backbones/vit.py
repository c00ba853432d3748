"""Vision transformers: tokens of all patches, of the visible ones only, or with some masked."""

from __future__ import annotations

from typing import ClassVar

import torch
from timm.layers import PatchEmbed
from timm.models import checkpoint_seq
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from unlabel.backbones.base import Backbone, replace_masked
from unlabel.errors import ConfigError


class ViT(Backbone):
    """A timm ``VisionTransformer`` (ViT, DeiT, DINOv2, AugReg, CLIP towers, ...).

    ``embed`` is timm's own pooled vector. ``global_pool`` in the model's arguments chooses it:
    ``"avg"``, the mean of the patch tokens after the norm (the default of networks that start at
    random, because masked modelling does not train the class token to sum up an image), or
    ``"token"``, the class token (the default of most networks with timm's weights).

    Networks that timm built with ``fc_norm`` have their norm after the pooling; ``tokens`` and
    ``feature_map`` apply it to each token, so that what they return is normed in every case.
    """

    serves: ClassVar[frozenset[str]] = frozenset({"visible", "mask"})
    net: VisionTransformer

    def __init__(self, net: VisionTransformer) -> None:
        super().__init__()
        self.net = net
        self.dim = net.embed_dim
        self.grid = net.patch_embed.grid_size
        self.stride = net.patch_embed.patch_size[0]
        self.prefix = net.num_prefix_tokens
        self.image_size = net.patch_embed.img_size[0]
        self.in_chans = net.in_chans

    def tokens(
        self,
        images: Tensor,
        visible: Tensor | None = None,
        mask: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> Tensor:
        """Encode as the base class says; ``visible`` and ``mask`` exclude each other."""
        if visible is not None and mask is not None:
            raise ConfigError("tokens() takes visible patches or a mask, not both")
        net = self.net
        if visible is not None:
            x = self._embed_visible(images, visible)
        else:
            x = replace_masked(net.patch_embed(images), mask, mask_token)
            x = net.patch_drop(net._pos_embed(x))
        x = net.norm_pre(x)
        x = checkpoint_seq(net.blocks, x) if net.grad_checkpointing else net.blocks(x)
        return net.fc_norm(net.norm(x))

    def feature_map(self, images: Tensor) -> Tensor:
        """Patch tokens after the norm, laid out as (B, D, rows, columns)."""
        patches = self.tokens(images)[:, self.prefix :]
        size = self.net.patch_embed.dynamic_feat_size(images.shape[-2:])
        return patches.transpose(1, 2).unflatten(2, size)

    def embed(self, images: Tensor) -> Tensor:
        """timm's pooled vector, (B, D)."""
        return self.net(images)

    def _embed_visible(self, images: Tensor, visible: Tensor) -> Tensor:
        """Prefix and visible patches with their positions, (B, prefix + K, D)."""
        net = self.net
        patches = self._embed_patches(images, visible)
        prefix = torch.cat([token.expand(len(images), -1, -1) for token in _prefix(net)], dim=1)
        if net.pos_embed is not None:
            positions = net.pos_embed[0]
            if not net.no_embed_class:
                prefix = prefix + positions[: self.prefix]
                positions = positions[self.prefix :]
            patches = patches + positions[visible]
        return net.pos_drop(torch.cat([prefix.to(patches.dtype), patches], dim=1))

    def _embed_patches(self, images: Tensor, visible: Tensor) -> Tensor:
        """Embeddings of the visible patches, (B, K, D)."""
        embed = self.net.patch_embed
        if type(embed) is not PatchEmbed:
            return _take(embed(images).flatten(1, -2), visible)
        # A convolution whose stride is its kernel is a matrix product of cut-out patches, so the
        # hidden ones need not be computed.
        height, width = images.shape[-2:]
        rows, columns = embed.dynamic_feat_size((height, width))
        cut = images.unflatten(3, (columns, -1)).unflatten(2, (rows, -1)).permute(0, 2, 4, 1, 3, 5)
        image = torch.arange(len(images), device=images.device)[:, None]
        seen = cut[image, visible // columns, visible % columns].flatten(2)
        weight = embed.proj.weight.flatten(1)
        return embed.norm(nn.functional.linear(seen, weight, embed.proj.bias))


def _prefix(net: VisionTransformer) -> list[Tensor]:
    """Class, distillation and register tokens, in timm's order; an empty one if none."""
    tokens = (net.cls_token, getattr(net, "dist_token", None), net.reg_token)
    found = [token for token in tokens if token is not None]
    return found or [torch.zeros(1, 0, net.embed_dim, device=net.patch_embed.proj.weight.device)]


def _take(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens (B, N, D) at ``index`` (B, K): (B, K, D)."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))

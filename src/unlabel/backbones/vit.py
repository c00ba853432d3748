"""Vision transformers: tokens of all patches, of the visible ones only, or with some masked."""

from __future__ import annotations

from typing import ClassVar

import torch
from timm.layers import PatchEmbed, resample_abs_pos_embed
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
        self.crop_unit = self.stride
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
        return net.fc_norm(self._encode(x))

    def _encode(self, x: Tensor) -> Tensor:
        """Tokens with positions through the blocks to the last norm, (B, prefix + K, D)."""
        net = self.net
        x = net.norm_pre(x)
        return net.norm(checkpoint_seq(net.blocks, x) if net.grad_checkpointing else net.blocks(x))

    def embed(self, images: Tensor) -> Tensor:
        """timm's pooled vector, (B, D); positions are resampled for crops of another size."""
        return self.net.forward_head(self._features(images))

    def embed_and_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled vector, and the patch tokens laid out as (B, D, rows, columns)."""
        features = self._features(images)
        patches = self.net.fc_norm(features[:, self.prefix :])
        grid = self.net.patch_embed.dynamic_feat_size(images.shape[-2:])
        return self.net.forward_head(features), patches.transpose(1, 2).unflatten(2, grid)

    def _features(self, images: Tensor) -> Tensor:
        """Tokens as timm's model leaves them to its head, for crops of any size."""
        if images.shape[-1] == self.image_size:
            return self.net.forward_features(images)
        return self._encode(self._embed_crop(images))

    def _embed_visible(self, images: Tensor, visible: Tensor) -> Tensor:
        """Prefix and visible patches with their positions, (B, prefix + K, D)."""
        patches = self._embed_patches(images, visible)
        positions = self._patch_positions()
        if positions is not None:
            # Unlike positions[visible], its gradient adds up in the same order every time.
            patches = patches + nn.functional.embedding(visible, positions)
        return self._with_prefix(patches)

    def _embed_crop(self, images: Tensor) -> Tensor:
        """All patches of a crop of another size, with their positions, after the prefix."""
        embed = self.net.patch_embed
        patches = embed.proj(images)
        grid = patches.shape[-2:]
        patches = embed.norm(patches.flatten(2).transpose(1, 2))
        positions = self._patch_positions()
        if positions is not None:
            resized = resample_abs_pos_embed(
                positions[None], list(grid), list(self.grid), num_prefix_tokens=0
            )
            patches = patches + resized
        return self._with_prefix(patches)

    def _patch_positions(self) -> Tensor | None:
        """Position embeddings of the patches, (N, D), if the network adds any."""
        net = self.net
        if net.pos_embed is None:
            return None
        return net.pos_embed[0] if net.no_embed_class else net.pos_embed[0, self.prefix :]

    def _with_prefix(self, patches: Tensor) -> Tensor:
        """Prefix tokens with their positions before ``patches``."""
        net = self.net
        prefix = torch.cat([token.expand(len(patches), -1, -1) for token in _prefix(net)], dim=1)
        if net.pos_embed is not None and not net.no_embed_class:
            prefix = prefix + net.pos_embed[0, : self.prefix]
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

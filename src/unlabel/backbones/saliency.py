"""What a backbone holds for the foreground: its attention, or the main axis of its features.

Shapes: B images, C channels, H by W pixels, N patches, h by w cells.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unlabel.backbones.base import Backbone
from unlabel.backbones.resnet import ResNet
from unlabel.backbones.vit import ViT

TOP = 0.6
"""Share of the attention that foreground patches get (DINO's figures, from memory)."""


def attends(backbone: Backbone) -> bool:
    """Whether the class token sums images up, so that its attention means something."""
    net = backbone.net
    return isinstance(backbone, ViT) and net.global_pool == "token" and net.cls_token is not None


@torch.no_grad()
def saliency(backbone: Backbone, images: Tensor) -> Tensor:
    """Saliency of images, normalised, of a size that ``embed`` takes: float32 (B, h, w).

    Where the class token sums images up (`attends`), 1 less the share of attention that patches
    with more of it get: above 1 - ``TOP`` are those that together get ``TOP`` of it. Otherwise the
    first principal component of each image's own last map, with the sign that is lower along the
    border.
    """
    if attends(backbone):
        return _unspent(class_attention(backbone, images))
    features = backbone.feature_map(images).float()
    return _main_axis(_centred(features) if isinstance(backbone, ResNet) else features)


def class_attention(backbone: Backbone, images: Tensor) -> Tensor:
    """The last block's attention of the class token to patches, mean over heads: (B, h, w)."""
    net: Any = backbone.net
    attention = net.blocks[-1].attn
    seen: list[Tensor] = []
    hook = attention.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        height, width = backbone.feature_map(images).shape[-2:]
    finally:
        hook.remove()
    x = seen[0]
    parts = attention.qkv(x).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key = attention.q_norm(parts[0][:, :, :1]), attention.k_norm(parts[1])
    scores = (query @ key.transpose(-2, -1)).float() * attention.scale
    return scores.softmax(dim=-1).mean(dim=1)[:, 0, backbone.prefix :].unflatten(1, (height, width))


def _unspent(attention: Tensor) -> Tensor:
    """1 less the share of all attention that patches with more of it get."""
    flat = attention.flatten(1) / attention.sum(dim=(1, 2)).unsqueeze(1)
    sorted_, order = flat.sort(dim=1, descending=True)
    before = sorted_.cumsum(dim=1) - sorted_
    return (1 - torch.zeros_like(flat).scatter(1, order, before)).view_as(attention)


def _centred(features: Tensor) -> Tensor:
    """The map (B, D, h, w) with each cell in the middle of the pixels that it stands for.

    Convolutions with a stride see around the first of these pixels, half a cell up and to the left.
    """
    return F.avg_pool2d(F.pad(features, (0, 1, 0, 1), mode="replicate"), 2, stride=1)


def _main_axis(features: Tensor) -> Tensor:
    """Each image's map (B, D, h, w) along the axis on which it spreads most."""
    x = features.flatten(2).transpose(1, 2)
    x = x - x.mean(dim=1, keepdim=True)
    # Of the small Gram matrix (N, N): its leading vector is the component's score of each cell.
    _, vectors = torch.linalg.eigh((x @ x.transpose(1, 2)).double())
    scores = vectors[:, :, -1].float().view(len(x), *features.shape[-2:])
    border = torch.ones(features.shape[-2:], dtype=torch.bool, device=features.device)
    border[1:-1, 1:-1] = False
    return scores * -scores[:, border].mean(dim=1).sign()[:, None, None]

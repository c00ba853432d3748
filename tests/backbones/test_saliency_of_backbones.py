from __future__ import annotations

import pytest
import torch

from unlabel.backbones.build import build_backbone
from unlabel.backbones.saliency import _main_axis, _unspent, attends, class_attention, saliency
from unlabel.config import ModelConfig

POOLED = {"global_pool": "token", "fc_norm": False}
REGISTERS = {**POOLED, "reg_tokens": 3, "qk_norm": True}


def build(name: str, size: int = 32, **arguments):
    torch.manual_seed(0)
    config = ModelConfig(name=name, image_size=size, arguments=arguments)
    return build_backbone(config).eval()


@pytest.mark.parametrize("arguments", [POOLED, REGISTERS])
@pytest.mark.parametrize("size", [32, 48])
def test_class_attention_is_what_the_last_block_computes(arguments, size):
    """Against timm's own attention matrix, which its unfused path sends through a dropout."""
    backbone = build("vit_nano", **arguments)
    images = torch.randn(3, 3, size, size)
    found = class_attention(backbone, images)
    block, seen = backbone.net.blocks[-1].attn, []
    block.fused_attn = False
    block.attn_drop.register_forward_hook(lambda _, given, out: seen.append(out))
    with torch.no_grad():
        backbone.feature_map(images)
    wanted = seen[0].mean(1)[:, 0, backbone.prefix :].unflatten(1, (size // 4, size // 4))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_patches_above_a_level_share_the_rest_of_the_attention():
    torch.manual_seed(0)
    attention = torch.rand(4, 5, 6)
    found = _unspent(attention)
    for image, value in zip(attention, found, strict=True):
        for row in range(5):
            for column in range(6):
                more = image[image > image[row, column]].sum() / image.sum()
                assert value[row, column] == pytest.approx(1 - more.item(), abs=1e-5)
    assert torch.equal(found.flatten(1).argmax(1), attention.flatten(1).argmax(1))


def test_the_main_axis_is_that_of_a_principal_component_analysis():
    torch.manual_seed(0)
    features = torch.randn(3, 7, 5, 6)
    found = _main_axis(features)
    for image, scores in zip(features, found, strict=True):
        cells = image.flatten(1).T.double()
        u, _, _ = torch.linalg.svd(cells - cells.mean(0), full_matrices=False)
        axis = u[:, 0].view(5, 6)
        wanted = axis if (axis * scores).sum() > 0 else -axis
        torch.testing.assert_close(scores.double(), wanted, rtol=1e-4, atol=1e-5)
        assert (scores[0].sum() + scores[-1].sum() + scores[1:-1, [0, -1]].sum()) < 0


def test_what_differs_from_the_border_is_salient():
    features = torch.randn(2, 8, 9, 9, generator=torch.Generator().manual_seed(0)) * 0.3
    features[:, :, 3:6, 2:7] += torch.arange(8).view(-1, 1, 1) / 4
    inside = torch.zeros(9, 9, dtype=torch.bool)
    inside[3:6, 2:7] = True
    for sign in (1, -1):
        found = _main_axis(features * sign)
        assert found[:, inside].min() > found[:, ~inside].max()


@pytest.mark.parametrize(
    ("name", "size", "arguments", "grid"),
    [
        ("vit_nano", 32, POOLED, (8, 8)),
        ("vit_nano", 32, {}, (8, 8)),
        ("resnet_nano", 32, {}, (4, 4)),
        ("resnet_nano", 96, {}, (3, 3)),
        ("swinv2_s", 192, {"depths": [1, 1, 1, 1]}, (6, 6)),
    ],
)
def test_every_family_has_a_map(name, size, arguments, grid):
    backbone = build(name, size, **arguments)
    assert attends(backbone) == (arguments == POOLED)
    found = saliency(backbone, torch.randn(2, 3, size, size))
    assert found.shape == (2, *grid)
    assert found.isfinite().all()
    assert not found.requires_grad


@pytest.mark.parametrize("seed", range(3))
def test_maps_of_convolutions_lie_where_their_pixels_are(seed):
    """A disc in the middle: without the half cell, its map lies 1/16 down and to the right."""
    torch.manual_seed(seed)
    backbone = build_backbone(ModelConfig(name="resnet_nano", image_size=256)).eval()
    at = torch.arange(256) - 127.5
    disc = (at[:, None] ** 2 + at**2 < 60**2).float()
    found = saliency(backbone, disc.expand(1, 3, -1, -1) * 4 - 1)[0]
    weights = (found - found.min()) / (found - found.min()).sum()
    cells = (torch.arange(8) + 0.5) / 8
    assert (weights.sum(0) * cells).sum() == pytest.approx(0.5, abs=0.03)
    assert (weights.sum(1) * cells).sum() == pytest.approx(0.5, abs=0.03)

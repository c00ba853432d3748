"""Our reading of SwinV2 against timm's own forward pass, with and without masks."""

from __future__ import annotations

import pytest
import timm
import torch

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig

ARGUMENTS = {"embed_dim": 16, "depths": (1, 2, 2, 1), "num_heads": (1, 1, 2, 2), "window_size": 4}
NAME, SIZE = "swinv2_tiny_window8_256", 64


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    ours = build_backbone(ModelConfig(name=NAME, image_size=SIZE, arguments=ARGUMENTS)).eval()
    for parameter in ours.parameters():
        # SwinV2 starts near the identity, where every order of blocks would give the same.
        torch.nn.init.normal_(parameter, std=0.2)
    theirs = timm.create_model(NAME, img_size=SIZE, num_classes=0, **ARGUMENTS).eval()
    theirs.load_state_dict(ours.net.state_dict())
    return ours, theirs


@torch.no_grad()
def test_tokens_map_and_vector_equal_timm(pair):
    ours, theirs = pair
    images = torch.randn(2, 3, SIZE, SIZE)
    features = theirs.forward_features(images)  # (B, h, w, D)
    assert ours.grid == tuple(features.shape[1:3])
    assert ours.dim == features.shape[3]
    assert ours.stride * ours.grid[0] == SIZE
    torch.testing.assert_close(ours.tokens(images), features.flatten(1, 2))
    torch.testing.assert_close(ours.feature_map(images), features.permute(0, 3, 1, 2))
    torch.testing.assert_close(ours.embed(images), theirs(images))


@torch.no_grad()
def test_masked_tokens_equal_timm_with_its_patch_embedding_replaced(pair):
    ours, theirs = pair
    images = torch.randn(2, 3, SIZE, SIZE)
    mask = torch.rand(2, (SIZE // 4) ** 2) < 0.5
    mask_token = torch.randn(1, 1, 16)

    def replace(module, inputs, embedded):  # (B, h, w, E)
        flat = embedded.flatten(1, 2)
        return torch.where(mask[..., None], mask_token, flat).view_as(embedded)

    hook = theirs.patch_embed.register_forward_hook(replace)
    expected = theirs.forward_features(images).flatten(1, 2)
    hook.remove()
    masked = ours.tokens(images, mask=mask, mask_token=mask_token)
    torch.testing.assert_close(masked, expected)
    assert not torch.allclose(masked, ours.tokens(images))


@torch.no_grad()
def test_a_mask_of_nothing_changes_nothing(pair):
    ours, _ = pair
    images = torch.randn(2, 3, SIZE, SIZE)
    nothing = torch.zeros(2, (SIZE // 4) ** 2, dtype=torch.bool)
    masked = ours.tokens(images, mask=nothing, mask_token=torch.ones(1, 1, 16))
    assert torch.equal(masked, ours.tokens(images))

from __future__ import annotations

import pytest
import torch

from unlabel.backbones.attention import PLAIN_TOKENS, suit_attention
from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def backbone():
    torch.manual_seed(0)
    arguments = {"embed_dim": 48, "depth": 2, "num_heads": 3}
    return build_backbone(
        ModelConfig(name="vit_tiny_patch16_224", image_size=32, patch_size=8, arguments=arguments)
    )


@pytest.mark.parametrize(
    ("device", "tokens", "fused"),
    [(CPU, 197, False), (CPU, PLAIN_TOKENS + 1, True), (GPU, 197, True)],
)
def test_kernel_by_device_and_length(device, tokens, fused):
    network = backbone()
    suit_attention(network, device, tokens)
    assert [block.attn.fused_attn for block in network.net.blocks] == [fused, fused]


def test_both_kernels_give_the_same_features_and_gradients():
    images = torch.randn(2, 3, 32, 32)
    results = []
    for tokens in (17, PLAIN_TOKENS + 1):
        network = backbone()
        suit_attention(network, CPU, tokens)
        features = network.tokens(images)
        features.square().mean().backward()
        results.append((features, network.net.patch_embed.proj.weight.grad))
    torch.testing.assert_close(results[0], results[1])

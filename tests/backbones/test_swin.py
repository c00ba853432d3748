from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor

from unlabel.backbones.swin import SwinV2
from unlabel.errors import ConfigError


@pytest.fixture(scope="module")
def backbone() -> SwinV2:
    torch.manual_seed(0)
    net = timm.create_model(
        "swinv2_tiny_window8_256",
        num_classes=0,
        img_size=64,
        embed_dim=32,
        depths=(2, 2, 2, 2),
        num_heads=(1, 2, 4, 8),
        window_size=4,
    )
    with torch.no_grad():  # its residual branches start at zero
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return SwinV2(net).eval()


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_tokens_map_and_vector_are_timms(backbone):
    x = images()
    expected = backbone.net.forward_features(x)  # (B, h, w, D)
    assert (backbone.dim, backbone.grid, backbone.stride, backbone.prefix) == (256, (2, 2), 32, 0)
    assert torch.equal(backbone.tokens(x), expected.reshape(2, 4, 256))
    assert torch.equal(backbone.feature_map(x), expected.permute(0, 3, 1, 2))
    assert torch.equal(backbone.embed(x), backbone.net(x))
    torch.testing.assert_close(backbone.embed(x), expected.mean((1, 2)))
    assert torch.equal(backbone.embed_and_map(x)[0], backbone.embed(x))


def test_mask_is_on_the_patch_grid(backbone):
    x = images()
    token = torch.randn(1, 1, 32)
    mask = torch.zeros(2, 16, 16, dtype=torch.bool)
    mask[0, 3, 7] = True
    mask[1, 8:, :] = True

    def replaced(module, inputs, output):
        return torch.where(mask[..., None], token[0], output)

    handle = backbone.net.patch_embed.register_forward_hook(replaced)
    expected = backbone.tokens(x)
    handle.remove()
    assert torch.equal(backbone.tokens(x, mask=mask.flatten(1), mask_token=token), expected)
    nothing = torch.zeros(2, 256, dtype=torch.bool)
    assert torch.equal(backbone.tokens(x, mask=nothing, mask_token=token), backbone.tokens(x))


def test_masked_pixels_have_no_influence(backbone):
    x = images()
    token = torch.randn(1, 1, 32)
    mask = torch.zeros(2, 16, 16, dtype=torch.bool)
    mask[:, 4:8, 4:8] = True
    changed = x.clone()
    changed[:, :, 16:32, 16:32] = 9.0
    asked = {"mask": mask.flatten(1), "mask_token": token}
    assert torch.equal(backbone.tokens(x, **asked), backbone.tokens(changed, **asked))


def test_bfloat16_autocast(backbone):
    full = backbone.tokens(images())
    with torch.autocast("cpu", torch.bfloat16):
        half = backbone.tokens(images())
    torch.testing.assert_close(half.float(), full, rtol=0.1, atol=0.1)


def test_visible_is_refused(backbone):
    assert "visible" not in backbone.serves
    with pytest.raises(ConfigError, match="windows"):
        backbone.tokens(images(), visible=torch.zeros(2, 1, dtype=torch.int64))

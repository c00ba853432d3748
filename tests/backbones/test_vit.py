from __future__ import annotations

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unlabel.backbones.vit import ViT
from unlabel.errors import ConfigError

KINDS = {
    "class token": {},
    "mean": {"global_pool": "avg", "fc_norm": False},
    "norm after pooling": {"global_pool": "avg"},
    "registers": {"reg_tokens": 2, "no_embed_class": True},
    "no prefix": {"class_token": False, "global_pool": "avg"},
    "norm before": {"pre_norm": True},
    "no positions": {"pos_embed": "none"},
    "any size": {"dynamic_img_size": True},
    "layer scale": {"init_values": 0.1},
}


def build(name: str = "vit_tiny_patch16_224", **arguments) -> ViT:
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0, img_size=32, patch_size=8, **arguments)
    with torch.no_grad():  # so that no token or norm is at its start
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return ViT(net).eval()


def small(**arguments) -> ViT:
    return build(embed_dim=64, depth=2, num_heads=2, **arguments)


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_timms(kind):
    backbone, x = small(**KINDS[kind]), images()
    expected = backbone.net.forward_features(x)
    if kind in ("norm after pooling", "no prefix"):
        expected = backbone.net.fc_norm(expected)
    torch.testing.assert_close(backbone.tokens(x), expected, rtol=0, atol=0)
    assert backbone.tokens(x).shape == (2, backbone.prefix + 16, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_all_patches_visible_is_the_whole_image(kind):
    """Attention does not mind the order, so visible patches in any order give the same tokens."""
    backbone, x = small(**KINDS[kind]), images()
    order = torch.stack([torch.randperm(16) for _ in x])
    whole = backbone.tokens(x)
    prefix, patches = whole[:, : backbone.prefix], whole[:, backbone.prefix :]
    shuffled = torch.stack([p[o] for p, o in zip(patches, order, strict=True)])
    expected = torch.cat([prefix, shuffled], dim=1)
    torch.testing.assert_close(backbone.tokens(x, visible=order), expected, rtol=1e-4, atol=1e-5)


@given(seed=st.integers(0, 2**16), count=st.integers(1, 15))
@settings(max_examples=15, deadline=None)
def test_hidden_patches_have_no_influence(seed, count):
    backbone, x = small(), images()
    draw = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(16, generator=draw) for _ in x])
    visible, hidden = order[:, :count], order[:, count:]
    other = x.clone().unflatten(3, (4, 8)).unflatten(2, (4, 8))  # (B, C, row, 8, column, 8)
    for image, patches in zip(other, hidden, strict=True):
        for patch in patches.tolist():
            image[:, patch // 4, :, patch % 4] = 7.0
    changed = other.flatten(2, 3).flatten(3, 4)
    assert torch.equal(
        backbone.tokens(x, visible=visible), backbone.tokens(changed, visible=visible)
    )
    assert not torch.allclose(backbone.tokens(x), backbone.tokens(changed))


def test_deit_with_a_distillation_token():
    backbone, x = build("deit_tiny_distilled_patch16_224"), images()
    order = torch.arange(16).expand(2, -1)
    assert backbone.prefix == 2
    torch.testing.assert_close(
        backbone.tokens(x, visible=order), backbone.tokens(x), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_mask_replaces_embeddings_before_positions(kind):
    backbone, x = small(**KINDS[kind]), images()
    token = torch.randn(1, 1, 64)
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, [0, 5]] = True
    mask[1, 9] = True
    seen = {}

    def replaced(module, inputs, output):
        flat = output.flatten(1, -2).clone()
        for b, n in mask.nonzero().tolist():
            flat[b, n] = token[0, 0]
        return flat.view_as(output)

    handle = backbone.net.patch_embed.register_forward_hook(replaced)
    seen["expected"] = backbone.tokens(x)
    handle.remove()
    assert torch.equal(backbone.tokens(x, mask=mask, mask_token=token), seen["expected"])
    nothing = torch.zeros_like(mask)
    assert torch.equal(backbone.tokens(x, mask=nothing, mask_token=token), backbone.tokens(x))


def test_map_and_vector():
    backbone, x = small(global_pool="avg", fc_norm=False), images()
    tokens = backbone.tokens(x)[:, 1:]
    dense = backbone.feature_map(x)
    assert dense.shape == (2, 64, 4, 4)
    assert torch.equal(dense[:, :, 1, 2], tokens[:, 6])
    torch.testing.assert_close(backbone.embed(x), tokens.mean(1))
    by_class = small()
    assert torch.equal(by_class.embed(x), by_class.tokens(x)[:, 0])


def test_gradients_reach_mask_token_positions_and_embedding():
    backbone, x = small(), images()
    token = torch.zeros(1, 1, 64, requires_grad=True)
    mask = torch.arange(16).expand(2, -1) < 8
    backbone.tokens(x, mask=mask, mask_token=token).square().mean().backward()
    assert token.grad.abs().sum() > 0
    backbone.zero_grad()
    backbone.tokens(x, visible=torch.tensor([[3], [5]])).square().mean().backward()
    moved = backbone.net.pos_embed.grad[0].abs().sum(1) > 0
    assert moved.nonzero().flatten().tolist() == [0, 4, 6]  # the class token, and patches 3 and 5
    assert backbone.net.patch_embed.proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("given_", [{"visible"}, {"mask"}])
def test_bfloat16_autocast(given_):
    backbone, x = small(), images()
    visible = torch.arange(8).expand(2, -1) if "visible" in given_ else None
    mask = torch.arange(16).expand(2, -1) < 8 if "mask" in given_ else None
    asked = {"visible": visible, "mask": mask}
    if mask is not None:
        asked["mask_token"] = torch.zeros(1, 1, 64)
    full = backbone.tokens(x, **asked)
    with torch.autocast("cpu", torch.bfloat16):
        half = backbone.tokens(x, **asked)
    torch.testing.assert_close(half.float(), full, rtol=0.1, atol=0.1)


def test_checkpointing_recomputes_the_same():
    backbone, x = small().train(), images()
    expected = backbone.tokens(x)
    backbone.net.set_grad_checkpointing()
    assert torch.equal(backbone.tokens(x), expected)


def test_refusals():
    backbone, x = small(), images()
    mask = torch.zeros(2, 16, dtype=torch.bool)
    with pytest.raises(ConfigError, match="not both"):
        backbone.tokens(x, visible=torch.zeros(2, 1, dtype=torch.int64), mask=mask)
    with pytest.raises(ConfigError, match="together"):
        backbone.tokens(x, mask=mask)


def test_crops_of_another_size_are_embedded_as_timm_would():
    size = {"img_size": 32, "patch_size": 8, "num_classes": 0}
    torch.manual_seed(0)
    dynamic = timm.create_model("vit_tiny_patch16_224", **size, dynamic_img_size=True).eval()
    backbone = ViT(timm.create_model("vit_tiny_patch16_224", **size)).eval()
    backbone.net.load_state_dict(dynamic.state_dict())
    small = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(backbone.embed(small), dynamic(small))
        ours, theirs = backbone.feature_map(small), dynamic.forward_features(small)[:, 1:]
    torch.testing.assert_close(ours, theirs.transpose(1, 2).unflatten(2, (2, 2)))


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_gives_vector_and_map(kind, size):
    backbone, x = small(**KINDS[kind]), images()[..., :size, :size]
    vector, dense = backbone.embed_and_map(x)
    assert torch.equal(vector, backbone.embed(x))
    assert dense.shape == (2, 64, size // 8, size // 8)
    if size == 32:
        assert torch.equal(dense.flatten(2).mT, backbone.tokens(x)[:, backbone.prefix :])
        assert torch.equal(vector, backbone.net(x))

from __future__ import annotations

import copy

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabel.backbones.build import build_backbone
from unlabel.backbones.resnet import ResNet, enlargement
from unlabel.config import ModelConfig
from unlabel.errors import ConfigError


def build(size: int) -> ResNet:
    torch.manual_seed(0)
    return ResNet(timm.create_model("resnet18", num_classes=0), size).eval()


@pytest.mark.parametrize("size", [28, 32, 48, 64, 96])
def test_geometry(size):
    backbone, x = build(size), torch.randn(2, 3, size, size)
    dense = backbone.feature_map(x)
    assert dense.shape == (2, 512, *backbone.grid)
    assert backbone.grid == (-(-size // backbone.stride),) * 2
    torch.testing.assert_close(backbone.embed(x), dense.mean((2, 3)))
    assert torch.equal(backbone.embed_and_map(x)[0], backbone.embed(x))


def test_large_images_are_timms():
    backbone, x = build(96), torch.randn(2, 3, 96, 96)
    assert backbone.enlarge == 1
    assert torch.equal(backbone.embed(x), backbone.net(x))


def test_small_images_are_repeated():
    backbone, x = build(32), torch.randn(2, 3, 32, 32)
    repeated = x.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert (backbone.enlarge, backbone.stride, backbone.grid) == (4, 8, (4, 4))
    assert torch.equal(backbone.embed(x), backbone.net(repeated))


@given(st.integers(8, 2048))
def test_enlargement_is_a_power_of_two_to_at_most_128_pixels(size):
    factor = enlargement(size)
    assert 32 % factor == 0
    assert factor == 1 if size > 64 else 64 < size * factor <= 128


def test_wide_architecture_of_width_one_is_the_plain_one():
    """Widths 2 and 4 are built by another timm class; at width 1 it must be ResNet-50 itself."""
    torch.manual_seed(0)
    plain = timm.create_model("resnet50", num_classes=0, zero_init_last=False).eval()
    wide = timm.create_model("resnetv2_50", num_classes=0, preact=False, width_factor=1).eval()
    wide.load_state_dict({_renamed(name): t for name, t in plain.state_dict().items()})
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(wide(x), plain(x), rtol=1e-4, atol=1e-5)


def _renamed(name: str) -> str:
    first, _, rest = name.partition(".")
    if first.startswith("layer"):
        stage = f"stages.{int(first[5:]) - 1}.blocks.{rest}"
        for old, new in {".bn": ".norm", "downsample.0": "downsample.conv"}.items():
            stage = stage.replace(old, new)
        return stage.replace("downsample.1", "downsample.norm")
    return {"conv1": "stem.conv", "bn1": "stem.norm"}[first] + "." + rest


def test_width_multiplies_every_group_and_the_stem():
    with torch.device("meta"):
        one = build_backbone(ModelConfig(name="resnet50"))
        four = build_backbone(ModelConfig(name="resnet50", width=4))
    assert four.dim == 4 * one.dim
    assert four.net.stem.conv.out_channels == 4 * one.net.conv1.out_channels == 256
    widths = [stage.blocks[0].conv2.out_channels for stage in four.net.stages]
    assert widths == [256, 512, 1024, 2048]


def test_bfloat16_autocast():
    backbone, x = build(64), torch.randn(2, 3, 64, 64)
    full = backbone.embed(x)
    with torch.autocast("cpu", torch.bfloat16):
        half = backbone.embed(x)
    torch.testing.assert_close(half.float(), full, rtol=0.1, atol=0.1)


def test_no_tokens():
    assert ResNet.serves == frozenset()
    with pytest.raises(ConfigError, match="no tokens"):
        build(32).tokens(torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnetv2_50"])
@pytest.mark.parametrize("enlarge", [1, 2, 4])
def test_the_least_crop_has_no_map_of_one_cell_to_halve(name, enlarge):
    """One pixel less has: padded convolutions whose bfloat16 gradients oneDNN leaves unset."""
    backbone = ResNet(timm.create_model(name, num_classes=0), 64, enlarge).eval()
    assert _narrowest_halved(backbone, backbone.least) == 2
    assert _narrowest_halved(backbone, backbone.least - 1) == 1


def _narrowest_halved(backbone: ResNet, size: int) -> int:
    """Cells a side of the smallest map that a convolution with padding halves."""
    sides: list[int] = []
    halving = [
        m for m in backbone.modules() if getattr(m, "stride", 1) == (2, 2) and any(m.padding)
    ]
    hooks = [m.register_forward_hook(lambda _, x, y: sides.append(x[0].shape[-1])) for m in halving]
    with torch.no_grad():
        backbone.embed(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return min(sides)


def test_weights_lie_as_convolutions_are_fastest_and_stay_so_when_copied():
    net = copy.deepcopy(build_backbone(ModelConfig(name="resnet_nano", image_size=32)))
    found = [w for w in net.parameters() if w.ndim == 4]
    assert found
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in found)

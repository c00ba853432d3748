from __future__ import annotations

import json

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from unlabel.backbones.build import NAMED, build_backbone
from unlabel.backbones.resnet import ResNet
from unlabel.backbones.swin import SwinV2
from unlabel.backbones.vit import ViT
from unlabel.config import ModelConfig
from unlabel.errors import ConfigError, InputMissing


def meta(name: str, **settings):
    with torch.device("meta"):
        return build_backbone(ModelConfig(name=name, **settings))


def millions(backbone) -> float:
    return sum(p.numel() for p in backbone.net.parameters()) / 1e6


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("swinv2_s", 48.96),
        ("swinv2_b", 86.89),
        ("swinv2_l", 195.20),
        ("swinv2_h", 655.21),
        ("swinv2_g", 1060.98),
    ],
)
def test_study_sizes(name, expected):
    backbone = meta(name)
    assert isinstance(backbone, SwinV2)
    assert millions(backbone) == pytest.approx(expected, abs=0.005)
    assert (backbone.image_size, backbone.grid) == (192, (6, 6))
    blocks = [stage.blocks[1] for stage in backbone.net.layers]
    assert [block.window_size[0] for block in blocks] == [12, 12, 12, 6]
    assert [block.shift_size[0] for block in blocks] == [6, 6, 0, 0]
    assert {block.dim // block.num_heads for block in blocks} == {32}


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("resnet50", 1, 24),
        ("resnet101", 1, 43),
        ("resnet152", 1, 58),
        ("resnet200", 1, 63),
        ("resnet50", 2, 94),
        ("resnet50", 4, 375),
        ("resnet200", 2, 250),
    ],
)
def test_relic_sizes(name, width, expected):
    backbone = meta(name, width=width)
    assert isinstance(backbone, ResNet)
    assert round(millions(backbone)) == expected


@pytest.mark.parametrize(("name", "most"), [("vit_nano", 1), ("vit_micro", 3), ("vit_mini", 10)])
def test_small_sizes(name, most):
    backbone = meta(name)
    assert isinstance(backbone, ViT)
    assert millions(backbone) < most
    assert (backbone.image_size, backbone.grid) == (32, (8, 8))


@pytest.mark.parametrize(
    ("name", "about"), [("swinv2_nano", 0.255), ("swinv2_micro", 0.959), ("swinv2_mini", 2.122)]
)
def test_small_swins(name, about):
    backbone = meta(name)
    assert isinstance(backbone, SwinV2)
    assert millions(backbone) == pytest.approx(about, abs=1e-3)
    assert (backbone.image_size, backbone.grid, backbone.stride) == (32, (4, 4), 8)


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch16_224",
        "deit3_small_patch16_224",
        "vit_small_patch14_dinov2",
        "vit_base_patch16_siglip_224",
        "vit_base_patch16_clip_224.openai",
        "swinv2_tiny_window8_256",
        "resnet18",
    ],
)
def test_timm_names(name):
    backbone = meta(name)
    assert backbone.image_size == timm.get_pretrained_cfg(name).input_size[-1]
    assert backbone.architecture == name.partition(".")[0]
    assert backbone.in_chans == 3
    json.dumps(backbone.model_args)


def test_image_patch_and_channels():
    backbone = meta("vit_small_patch16_224", image_size=28, patch_size=7, in_chans=1, drop_path=0.2)
    assert (backbone.grid, backbone.stride, backbone.in_chans) == ((4, 4), 7, 1)
    assert backbone.net.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    assert meta("swinv2_tiny_window8_256").net.layers[-1].blocks[-1].drop_path1.__class__ is (
        torch.nn.Identity
    )


@pytest.mark.parametrize(
    ("size", "patch", "windows"),
    [
        (192, 4, [12, 12, 12, 6]),
        (224, 4, [14, 14, 14, 7]),
        (160, 4, [10, 10, 10, 5]),
        (96, 4, [12, 12, 6, 3]),
        (32, 2, [16, 8, 4, 2]),
        (32, 4, [8, 4, 2, 1]),
    ],
)
def test_windows_tile_every_grid(size, patch, windows):
    backbone = meta("swinv2_s", image_size=size, patch_size=patch)
    blocks = [stage.blocks[0] for stage in backbone.net.layers]
    assert [block.window_size[0] for block in blocks] == windows
    assert all(b.input_resolution[0] % b.window_size[0] == 0 for b in blocks)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "vit_smal_patch16_224"}, ["vit_smal_patch16_224", "vit_small_patch16_224"]),
        ({"name": "swin_v2_s"}, ["swinv2_s"]),
        ({"name": "convnext_tiny"}, ["ViT", "SwinV2", "ResNet"]),
        ({"name": "vit_small_patch16_224", "image_size": 100}, ["96 or 112"]),
        ({"name": "swinv2_s", "image_size": 28}, ["multiple of 32"]),
        ({"name": "vit_nano", "width": 2}, ["resnet50"]),
        ({"name": "resnet18", "patch_size": 4}, ["no patches"]),
        ({"name": "vit_nano", "arguments": {"depht": 3}}, ["depht"]),
        ({"name": "vit_nano", "arguments": {"global_pool": "no"}}, ["cannot be built"]),
    ],
)
def test_refusals_say_what_would_do(settings, words):
    with pytest.raises(ConfigError) as error:
        meta(**settings)
    assert all(word in str(error.value) for word in words)


def test_random_start_pools_patches_unless_told():
    assert meta("vit_nano").net.global_pool == "avg"
    assert not isinstance(meta("vit_nano").net.norm, torch.nn.Identity)
    assert meta("vit_nano", arguments={"global_pool": "token"}).net.global_pool == "token"


def test_weights_from_a_file(tmp_path):
    torch.manual_seed(0)
    source = build_backbone(ModelConfig(name="vit_nano"))
    path = tmp_path / "weights.safetensors"
    save_file(source.net.state_dict(), path)
    loaded = build_backbone(ModelConfig(name="vit_nano", weights=str(path)))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.embed(x), source.embed(x))
    assert loaded.pretrained
    assert not source.pretrained
    larger = build_backbone(ModelConfig(name="vit_nano", weights=str(path), image_size=48))
    assert larger.grid == (12, 12)
    with pytest.raises(ConfigError, match="do not fit"):
        build_backbone(ModelConfig(name="vit_micro", weights=str(path)))


def test_weights_that_normalise_after_pooling(tmp_path):
    architecture, arguments = NAMED["vit_nano"]
    source = timm.create_model(architecture, num_classes=0, global_pool="avg", **arguments)
    path = tmp_path / "weights.safetensors"
    save_file(source.state_dict(), path)
    loaded = build_backbone(ModelConfig(name="vit_nano", weights=str(path))).eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.embed(x), source.eval()(x))


def test_swin_keeps_the_window_it_was_trained_with(tmp_path):
    small = {"embed_dim": 32, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]}
    source = build_backbone(ModelConfig(name="swinv2_s", image_size=192, arguments=small))
    path = tmp_path / "weights.safetensors"
    save_file(source.net.state_dict(), path)
    settings = {"name": "swinv2_s", "image_size": 224, "arguments": small}
    blocks = [
        stage.blocks[0].attn
        for stage in build_backbone(ModelConfig(weights=str(path), **settings)).net.layers
    ]
    assert [b.window_size[0] for b in blocks] == [14, 14, 14, 7]
    assert [b.pretrained_window_size[0] for b in blocks] == [12, 12, 12, 6]


def test_missing_weights(tmp_path):
    with pytest.raises(InputMissing, match=r"nothing\.safetensors"):
        build_backbone(ModelConfig(name="vit_nano", weights=str(tmp_path / "nothing.safetensors")))
    with pytest.raises(InputMissing, match=r"config\.json"):
        build_backbone(ModelConfig(name=f"local-dir:{tmp_path}"))
    (tmp_path / "config.json").write_text('{"architecture": "resnet_of_tomorrow"}')
    with pytest.raises(ConfigError, match="resnet_of_tomorrow"):
        build_backbone(ModelConfig(name=f"local-dir:{tmp_path}"))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        build_backbone(ModelConfig(name=f"local-dir:{tmp_path}"))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="describes no timm model"):
        build_backbone(ModelConfig(name=f"local-dir:{tmp_path}"))


def test_timms_weights_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    settings = {"cache_dir": str(tmp_path)}
    config = ModelConfig(name="vit_tiny_patch16_224", weights="timm", arguments=settings)
    with pytest.raises(InputMissing, match="network"):
        build_backbone(config)

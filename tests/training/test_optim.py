"""Which parameters decay and how fast each layer learns."""

from __future__ import annotations

import math

import pytest
import torch

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig, OptimConfig
from unlabel.methods.base import DataInfo
from unlabel.methods.registry import build_method
from unlabel.training.optim import (
    build_optimizer,
    layer_scales,
    set_learning_rate,
    set_weight_decay,
)

VIT = {"embed_dim": 16, "depth": 3, "num_heads": 2}
SWIN = {"embed_dim": 16, "depths": (1, 2, 1, 1), "num_heads": (1, 1, 1, 1)}


@pytest.fixture
def method():
    torch.manual_seed(0)
    backbone = build_backbone(ModelConfig(name="resnet_nano", image_size=16))
    data = DataInfo(8, 0, (0.5,) * 3, (0.25,) * 3)
    return build_method("simclr", backbone, {"hidden": 8, "out": 4}, data)


@pytest.mark.parametrize("kind", ["adamw", "lars", "sgd"])
def test_norms_and_biases_are_not_decayed(method, kind):
    optimizer = build_optimizer(method, OptimConfig(optimizer=kind, weight_decay=0.1))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert len(decay) == len(list(method.parameters()))
    for parameter in method.parameters():
        assert decay[id(parameter)] == (0.1 if parameter.ndim > 1 else 0)


@pytest.mark.parametrize("start", [0.1, 0.0])
def test_a_scheduled_decay_reaches_only_what_decays(method, start):
    optimizer = build_optimizer(method, OptimConfig(weight_decay=start))
    for value in (0.0, 0.3):
        set_weight_decay(optimizer, value)
        assert [group["weight_decay"] for group in optimizer.param_groups] == [value, 0.0]


def test_sgd_is_torchs_with_momentum(method):
    optimizer = build_optimizer(method, OptimConfig(optimizer="sgd", lr=0.5, betas=(0.8, 0.999)))
    assert isinstance(optimizer, torch.optim.SGD)
    assert all(g["momentum"] == 0.8 and not g["nesterov"] for g in optimizer.param_groups)


def scales(decay: float = 0.5, **model) -> dict[str, float]:
    """The factor of each part of a network, by the beginning of its name."""
    return layer_scales(build_backbone(ModelConfig(**model)).net, decay)


def exponents(found: dict[str, float], **parts: str) -> dict[str, int]:
    """The power of one half that all parameters below each part share."""
    shared = {}
    for label, prefix in parts.items():
        [value] = {value for name, value in found.items() if name.startswith(prefix)}
        shared[label] = round(-math.log2(value))
    return shared


def test_layer_scales_of_a_vit():
    found = scales(name="vit_nano", arguments=VIT)
    assert exponents(
        found, norm="norm.", top="blocks.2.", mid="blocks.1.", low="blocks.0.", stem="patch_embed."
    ) == {"norm": 0, "top": 1, "mid": 2, "low": 3, "stem": 4}
    assert found["pos_embed"] == found["cls_token"] == 1 / 16


def test_layer_scales_of_a_vit_whose_norm_follows_the_pooling():
    found = scales(name="vit_nano", arguments=VIT | {"fc_norm": True})
    assert exponents(found, norm="fc_norm.", top="blocks.2.", stem="patch_embed.") == {
        "norm": 0,
        "top": 1,
        "stem": 4,
    }


def test_layer_scales_of_a_swin():
    found = scales(name="swinv2_tiny_window8_256", image_size=64, arguments=SWIN)
    assert exponents(
        found,
        norm="norm.",
        last="layers.3.",
        third="layers.2.",
        second="layers.1.blocks.1.",
        merging="layers.1.downsample.",
        first="layers.1.blocks.0.",
        zeroth="layers.0.",
        stem="patch_embed.",
    ) == {
        "norm": 0,
        "last": 1,
        "third": 2,
        "second": 3,
        "merging": 4,
        "first": 4,
        "zeroth": 5,
        "stem": 6,
    }


def test_layer_scales_of_a_resnet():
    found = scales(name="resnet18", arguments={"layers": [1, 2, 1, 1], "channels": [4] * 4})
    assert exponents(
        found,
        top="layer4.",
        mid="layer3.",
        second="layer2.1.",
        shortcut="layer2.0.downsample.",
        first="layer2.0.",
        low="layer1.",
        stem="conv1.",
    ) == {"top": 1, "mid": 2, "second": 3, "shortcut": 4, "first": 4, "low": 5, "stem": 6}
    assert found["bn1.weight"] == found["conv1.weight"]


def test_layer_scales_of_a_wide_resnet():
    found = scales(name="resnet50", width=2)
    parts = exponents(found, top="stages.3.blocks.2.", low="stages.0.blocks.0.", stem="stem.")
    assert parts == {"top": 1, "low": 16, "stem": 17}


def test_no_layer_decay_gives_two_groups(method):
    groups = build_optimizer(method, OptimConfig()).param_groups
    assert [(g["lr_scale"], g["decays"]) for g in groups] == [(1, True), (1, False)]


def test_every_parameter_is_in_one_group_with_layer_decay():
    backbone = build_backbone(ModelConfig(name="vit_nano", image_size=16, arguments=VIT))
    data = DataInfo(8, 0, (0.5,) * 3, (0.25,) * 3)
    method = build_method("mae", backbone, {"decoder_dim": 32, "decoder_depth": 1}, data)
    optimizer = build_optimizer(method, OptimConfig(layer_decay=0.5))
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in method.parameters() if p.requires_grad)
    set_learning_rate(optimizer, 0.1)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in method.named_parameters():
        if not name.startswith("backbone.") and parameter.requires_grad:
            assert rate[id(parameter)] == 0.1

"""Honest weights are found in their wrappers and load exactly, or not at all."""

from __future__ import annotations

import argparse
from collections import OrderedDict

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed, resample_patch_embed

from unlabel.backbones.weights import load_into, read_weights
from unlabel.errors import ConfigError, DataError, InputMissing


def vit(seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", **(sizes | {"num_classes": 0} | options))


def prefixed(prefix, tensors):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


HEAD = {"head.weight": torch.ones(5, 24), "head.bias": torch.ones(5)}
PROJECTOR = {"head.mlp.0.weight": torch.ones(4, 24), "head.last_layer.weight": torch.ones(2, 4)}
WRAPPERS = {
    "bare": lambda w: w,
    "ordered": lambda w: OrderedDict(w),
    "model": lambda w: {"model": w, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
    "state_dict": lambda w: {"state_dict": prefixed("module.", w | HEAD), "optimizer": {}},
    "teacher": lambda w: {
        "student": prefixed("module.backbone.", w) | prefixed("module.", PROJECTOR),
        "teacher": prefixed("backbone.", w) | PROJECTOR,
    },
    "compiled": lambda w: prefixed("_orig_mod.module.", w),
    "encoder": lambda w: prefixed("encoder.", w) | {"decoder.weight": torch.ones(2)},
    "twice": lambda w: {"model": {"state_dict": w}},
    "a run": lambda w: (
        prefixed("backbone.net.", w)
        | prefixed("teacher.net.", {k: v * 0 for k, v in w.items()})
        | {"mask_token": torch.ones(1)}
    ),
    "trained in parallel": lambda w: prefixed("model.module.net.", w),
}


def is_flat(content):
    return all(isinstance(value, torch.Tensor) for value in content.values())


WAYS = [
    (wrapper, how)
    for wrapper in WRAPPERS
    for how in ("zip", "legacy", "safetensors")
    if how != "safetensors" or is_flat(WRAPPERS[wrapper]({}))
]


@pytest.mark.parametrize(("wrapper", "how"), WAYS)
def test_weights_are_found_in_their_wrappers(tmp_path, wrapper, how):
    net = vit()
    content = WRAPPERS[wrapper](dict(net.state_dict()))
    path = tmp_path / "weights.safetensors"
    if how == "safetensors":
        save_file(content, path)
    else:
        path = tmp_path / "weights.pt"
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    weights = read_weights(path)
    other = vit(seed=1)
    load_into(other, weights, str(path))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(net.eval()(images), other.eval()(images))


def test_names_that_cannot_be_weights(tmp_path):
    with pytest.raises(InputMissing, match=r"none\.pth"):
        read_weights(tmp_path / "none.pth")
    (tmp_path / "weights.exe").write_bytes(b"x")
    with pytest.raises(DataError, match="Known endings"):
        read_weights(tmp_path / "weights.exe")
    with pytest.raises(DataError, match="is a folder"):
        read_weights(tmp_path)


def test_heads_are_left_out_or_loaded():
    net = vit(num_classes=5)
    headless = vit(seed=1)
    load_into(headless, net.state_dict(), "w")
    assert torch.equal(headless.norm.weight, net.norm.weight)
    with_head = vit(seed=1, num_classes=5)
    load_into(with_head, net.state_dict(), "w")
    assert torch.equal(with_head.head.weight, net.head.weight)


def test_another_grid_and_patch_size_are_resampled():
    net, other = vit(), vit(seed=1, img_size=48, patch_size=4)
    load_into(other, net.state_dict(), "w")
    positions = resample_abs_pos_embed(net.pos_embed, [12, 12], num_prefix_tokens=1)
    kernel = resample_patch_embed(net.patch_embed.proj.weight, [4, 4])
    assert torch.equal(other.pos_embed, positions)
    assert torch.equal(other.patch_embed.proj.weight, kernel)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_another_float_type_is_cast(dtype):
    net = vit()
    load_into(net, {name: t.to(dtype) for name, t in vit(seed=1).state_dict().items()}, "w")
    assert net.pos_embed.dtype == torch.float32
    assert torch.equal(net.pos_embed, vit(seed=1).pos_embed.to(dtype).float())


def test_swin_takes_another_window_and_ignores_rebuilt_buffers():
    sizes = {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 2), "num_classes": 0}
    torch.manual_seed(0)
    net = timm.create_model("swinv2_tiny_window8_256", img_size=64, window_size=8, **sizes)
    other = timm.create_model("swinv2_tiny_window8_256", img_size=32, window_size=4, **sizes)
    block = "layers.0.blocks.0"
    published = dict(net.state_dict()) | {
        f"{block}.attn.relative_position_index": torch.ones(64, 64, dtype=torch.long),
        f"{block}.attn.relative_coords_table": torch.ones(1, 15, 15, 2),
        f"{block}.attn_mask": torch.ones(4, 64, 64),
        "head.weight": torch.ones(10, 24),
        "head.bias": torch.ones(10),
    }
    load_into(other, published, "w")
    for name, tensor in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_resnet_without_head_and_counters():
    net = timm.create_model("resnet18", num_classes=7)
    old = {k: v + 1 for k, v in net.state_dict().items() if "num_batches_tracked" not in k}
    other = timm.create_model("resnet18", num_classes=0)
    load_into(other, old, "w")
    assert torch.equal(other.bn1.running_mean, net.bn1.running_mean + 1)


def test_what_does_not_fit_is_listed_and_nothing_is_loaded():
    weights = dict(vit(seed=1).state_dict())
    for name in [name for name in weights if name.startswith("blocks.1.")]:
        weights["blocks.9." + name.removeprefix("blocks.1.")] = weights.pop(name)
    weights["norm.weight"] = torch.ones(25)
    weights["norm.bias"] = torch.ones(24, dtype=torch.int64)
    net, untouched = vit(), vit()
    with pytest.raises(ConfigError) as caught:
        load_into(net, weights, "file.pth")
    text = str(caught.value)
    assert "file.pth" in text
    assert "12 missing: blocks.1.attn.proj.bias, " in text
    assert "12 unexpected: blocks.9.attn.proj.bias, " in text
    assert "norm.weight ((25,) float, needed (24,) float)" in text
    assert "norm.bias ((24,) int64, needed (24,) float)" in text
    assert text.count("blocks.9.") == 5
    for name, tensor in untouched.state_dict().items():
        assert torch.equal(net.state_dict()[name], tensor)


def test_some_may_be_missing_when_that_is_said():
    weights = {k: v for k, v in vit(seed=1).state_dict().items() if not k.startswith("norm.")}
    with pytest.raises(ConfigError, match=r"2 missing: norm\.bias, norm\.weight"):
        load_into(vit(), weights, "w")
    net = vit()
    load_into(net, weights, "w", allow_missing=["norm."])
    assert torch.equal(net.pos_embed, vit(seed=1).pos_embed)


def test_channels_are_not_guessed():
    with pytest.raises(ConfigError, match=r"patch_embed\.proj\.weight"):
        load_into(vit(in_chans=1), vit().state_dict(), "w")


def test_weights_that_break_the_conversion():
    weights = dict(vit().state_dict()) | {"pos_embed": torch.ones(7)}
    with pytest.raises(ConfigError, match="not those of a VisionTransformer"):
        load_into(vit(), weights, "w")

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from unlabel.backbones.build import build_backbone
from unlabel.backbones.resnet import ResNet
from unlabel.config import ModelConfig
from unlabel.errors import ConfigError, OutputExists
from unlabel.export import export_backbone

MODELS = {
    "own size": {"name": "vit_nano"},
    "own arguments": {"name": "vit_micro", "arguments": {"depth": 2, "global_pool": "token"}},
    "timm's ViT": {"name": "vit_tiny_patch16_224", "image_size": 64, "patch_size": 8},
    "SwinV2": {
        "name": "swinv2_s",
        "image_size": 64,
        "arguments": {"embed_dim": 32, "num_heads": [1, 2, 4, 8], "depths": [1, 1, 2, 1]},
    },
    "wide ResNet": {
        "name": "resnet50",
        "width": 2,
        "image_size": 32,
        "arguments": {"layers": [1, 1, 1, 1]},
    },
    "ResNet": {"name": "resnet18", "image_size": 80},
    "grey": {"name": "vit_nano", "in_chans": 1},
    "enlarged": {"name": "resnet_nano", "image_size": 28, "enlarge": 2},
}
NOTES = {"method": "mae", "steps": 10}


def build(**settings):
    torch.manual_seed(0)
    backbone = build_backbone(ModelConfig(**settings)).eval()
    with torch.no_grad():  # so that no norm or bias is at its start
        for p in backbone.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return backbone


def statistics(channels: int) -> dict[str, list[float]]:
    return {"mean": [0.5, 0.4, 0.3][:channels], "std": [0.2, 0.3, 0.25][:channels]}


def normalised(pixels: np.ndarray, mean: list[float], std: list[float]) -> torch.Tensor:
    """uint8 (H, W, C) to a batch of one, as in training."""
    x = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    return ((x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])[None]


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_timm_gives_the_same_features_from_the_same_pixels(kind, tmp_path):
    backbone = build(**MODELS[kind])
    channels, size = backbone.in_chans, backbone.image_size
    values = statistics(channels)
    folder = export_backbone(backbone, tmp_path / "out", **values, notes=NOTES)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, channels), dtype=np.uint8)
    picture = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
    ours = backbone.embed(normalised(pixels, **values))
    if isinstance(backbone, ResNet):  # to the bit where sums are taken in the same order
        theirs = theirs.to(memory_format=torch.channels_last)
    assert torch.equal(theirs(transform(picture)[None]), ours)
    again = build_backbone(ModelConfig(name=f"local-dir:{folder}")).eval()
    assert (again.image_size, again.grid, again.enlarge) == (size, backbone.grid, backbone.enlarge)
    assert torch.equal(again.embed(normalised(pixels, **values)), ours)
    assert (again.mean, again.std) == (tuple(values["mean"]), tuple(values["std"]))
    assert (backbone.mean, backbone.std) == (None, None)


def test_a_classifier_can_be_put_on(tmp_path):
    folder = export_backbone(build(name="vit_nano"), tmp_path / "out", **statistics(3), notes=NOTES)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=10)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_another_image_size_can_be_asked_for(tmp_path):
    folder = export_backbone(build(name="vit_nano"), tmp_path / "out", **statistics(3), notes=NOTES)
    larger = build_backbone(ModelConfig(name=f"local-dir:{folder}", image_size=48))
    assert larger.grid == (12, 12)


def test_the_folder_tells_what_it_is(tmp_path):
    backbone = build(name="vit_nano", image_size=128, patch_size=16)
    folder = export_backbone(backbone, tmp_path / "out", **statistics(3), notes=NOTES)
    config = json.loads((folder / "config.json").read_text())
    assert config["unlabel"] == {"image_size": 128, **NOTES}
    assert config["pretrained_cfg"]["crop_pct"] == 0.875
    assert config["pretrained_cfg"]["mean"] == [0.5, 0.4, 0.3]
    readme = (folder / "README.md").read_text()
    assert 'timm.create_model("local-dir:out", pretrained=True)' in readme
    assert "method: mae" in readme
    assert load_file(folder / "model.safetensors").keys() == backbone.net.state_dict().keys()


def test_nothing_is_overwritten_unasked(tmp_path):
    backbone, folder = build(name="vit_nano"), tmp_path / "out"
    export_backbone(backbone, folder, **statistics(3), notes=NOTES)
    with pytest.raises(OutputExists, match="--overwrite"):
        export_backbone(backbone, folder, **statistics(3), notes=NOTES)
    export_backbone(backbone, folder, **statistics(3), notes={"steps": 20}, overwrite=True)
    assert json.loads((folder / "config.json").read_text())["unlabel"]["steps"] == 20
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_nothing_but_an_export_is_ever_replaced(kind, tmp_path):
    target = tmp_path / "photos"
    mine = target / "holiday.jpg" if kind == "folder" else target
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(OutputExists, match="not replaced"):
        export_backbone(
            build(name="vit_nano"), target, **statistics(3), notes=NOTES, overwrite=True
        )
    assert mine.read_text() == "mine"


def test_statistics_must_fit_the_channels(tmp_path):
    with pytest.raises(ConfigError, match="3 channels"):
        export_backbone(
            build(name="vit_nano"), tmp_path / "out", mean=[0.5], std=[0.2], notes=NOTES
        )

"""Toys that the tests of view-matching methods share."""

from __future__ import annotations

import torch
from torch import Tensor

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig
from unlabel.data.spec import Batch
from unlabel.methods.base import DataInfo, Method, Progress
from unlabel.methods.registry import build_method

START = Progress(0, 10)
RESNET = ModelConfig(name="resnet18", image_size=16)


def toy(name: str, model: ModelConfig = RESNET, images: int = 64, **options) -> Method:
    """The method around a small backbone, in evaluation mode."""
    torch.manual_seed(0)
    data = DataInfo(images, 0, mean=(0.5,) * 3, std=(0.25,) * 3, segments=True)
    small = {"hidden": 32, "out": 16}
    return build_method(name, build_backbone(model), small | options, data).eval()


def batch_for(method: Method, images: int = 5, seed: int = 1) -> Batch:
    """Normal noise in the shape of the method's crops."""
    torch.manual_seed(seed)
    views = {
        name: torch.randn(images, crops.count, 3, crops.size, crops.size)
        for name, crops in method.spec.crops.items()
    }
    return Batch(views, {}, torch.arange(images), segments=segments_for(method, images))


def segments_for(method: Method, images: int) -> dict[str, Tensor]:
    """Random ones for the crops that want them, over three numbers."""
    return {
        name: torch.randint(0, 3, (images, crops.count, *(crops.segments,) * 2), dtype=torch.uint8)
        for name, crops in method.spec.crops.items()
        if crops.segments
    }


def crops_of(batch: Batch) -> list[Tensor]:
    """The two large crops, each (B, 3, H, W)."""
    return [crop for views in batch.views.values() for crop in views.unbind(1)]


def shake(network: torch.nn.Module, by: float = 0.1) -> None:
    """Move weights off their start, so that nothing cancels by chance."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += (
                by * parameter.std(correction=0).clamp(min=0.1) * torch.randn_like(parameter)
            )


def project(network, crop: Tensor) -> Tensor:
    """The projector's output for one crop alone; ``network`` is a method or a target network."""
    return network.projector(network.backbone.embed(crop))


def float64_directions(rows: Tensor) -> Tensor:
    rows = rows.double()
    return torch.stack([row / row.square().sum().sqrt() for row in rows])

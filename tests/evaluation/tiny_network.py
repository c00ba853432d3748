"""A network that the tests of evaluation measure in seconds."""

from __future__ import annotations

import torch

from unlabel.backbones.base import Backbone
from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig
from unlabel.evaluation.subjects import random_network

TINY = ModelConfig(
    name="vit_nano",
    image_size=16,
    patch_size=4,
    arguments={"embed_dim": 32, "depth": 2, "num_heads": 2},
)


def network(model: ModelConfig = TINY, seed: int = 0) -> Backbone:
    """The network of ``model`` with the random weights of ``seed``."""
    with torch.random.fork_rng(devices=[]):
        return random_network(build_backbone(model), seed)

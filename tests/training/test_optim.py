from __future__ import annotations

import pytest
import torch

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig, OptimConfig
from unlabel.methods.base import DataInfo
from unlabel.methods.registry import build_method
from unlabel.training.optim import build_optimizer, set_weight_decay


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


def test_a_scheduled_decay_reaches_only_what_decays(method):
    optimizer = build_optimizer(method, OptimConfig(weight_decay=0.1))
    set_weight_decay(optimizer, 0.3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]


def test_sgd_is_torchs_with_momentum(method):
    optimizer = build_optimizer(method, OptimConfig(optimizer="sgd", lr=0.5, betas=(0.8, 0.999)))
    assert isinstance(optimizer, torch.optim.SGD)
    assert all(g["momentum"] == 0.8 and not g["nesterov"] for g in optimizer.param_groups)

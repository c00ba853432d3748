from __future__ import annotations

import pytest

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig
from unlabel.errors import ConfigError
from unlabel.methods import method_names
from unlabel.methods.base import DataInfo, Method
from unlabel.methods.registry import build_method, get_method, methods

DATA = DataInfo(images=64, classes=0, mean=(0.5,) * 3, std=(0.25,) * 3)


def test_methods_are_found_by_themselves_under_their_names():
    found = methods()
    assert {"mae", "simmim", "supervised"} <= set(found)
    assert all(issubclass(method, Method) and method.name == n for n, method in found.items())
    assert list(found) == sorted(found)


def test_a_method_is_called_as_its_file_is():
    """So that a misspelt one is told without importing any."""
    assert list(methods()) == method_names()


def test_a_misspelt_name_is_answered_with_the_near_one():
    with pytest.raises(ConfigError, match="Did you mean 'simmim'"):
        get_method("SimMin")
    with pytest.raises(ConfigError, match=r"no 'xyz'\. Known: "):
        get_method("xyz")


def test_options_are_validated():
    backbone = build_backbone(ModelConfig(name="vit_nano"))
    assert build_method("mae", backbone, {"mask_ratio": 0.5}, DATA).spec.masks
    with pytest.raises(ConfigError, match=r"options of mae.*\n.*ratio_mask"):
        build_method("mae", backbone, {"ratio_mask": 0.5}, DATA)


def test_a_backbone_that_cannot_serve_is_refused_with_those_that_can():
    resnet = build_backbone(ModelConfig(name="resnet18", image_size=32))
    with pytest.raises(ConfigError, match=r"cannot train a ResNet.*ViT and SwinV2"):
        build_method("simmim", resnet, {}, DATA)
    with pytest.raises(ConfigError, match=r"visible patches.* It can train ViT;"):
        build_method("mae", resnet, {}, DATA)

"""Settings refuse what cannot work, and say what can."""

from __future__ import annotations

import numpy as np
import pytest

from unlabel.config import PretrainConfig, Settings, validated
from unlabel.errors import ConfigError
from unlabel.evaluation.finetune import FinetuneConfig
from unlabel.evaluation.linear_sgd import LinearSGDConfig
from unlabel.methods.registry import methods

SCALES = [
    (settings, name)
    for settings in (FinetuneConfig, LinearSGDConfig, *(m.Options for m in methods().values()))
    for name in settings.model_fields
    if name.endswith("scale")
]


def test_every_method_that_crops_at_random_has_its_scale_here():
    assert {settings.__name__ for settings, _ in SCALES} >= {"SimCLROptions", "MAEOptions"}


@pytest.mark.parametrize("scale", [(1.0, 0.2), (0.0, 1.0), (0.2, 1.1), (-0.5, -0.1)])
@pytest.mark.parametrize(("settings", "name"), SCALES)
def test_a_crops_share_of_the_image_is_a_range(settings: type[Settings], name: str, scale):
    with pytest.raises(ConfigError, match=rf"  {name}: must be two numbers above 0 and at most 1,"):
        validated(settings, {name: scale}, "options")


def test_one_share_may_be_both_ends():
    assert FinetuneConfig(scale=(1, 1)).scale == (1.0, 1.0)


@pytest.mark.parametrize("name", ["steps", "validation_fraction"])
def test_a_flag_is_no_number(name: str):
    given = {"data": ".", "method": "simclr"}
    with pytest.raises(ConfigError, match=f"{name}.*must be a number, not yes or no"):
        validated(PretrainConfig, {**given, name: True}, "settings")
    assert validated(PretrainConfig, {**given, "compile": True}, "settings").compile


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"average": "none"}, True),
        ({"average": "None"}, True),
        ({"model": {"name": "resnet18", "patch_size": "none"}}, True),
        ({"average": "nothing"}, False),
        ({"optim": {"optimizer": "none"}}, False),  # there must be one
        ({"steps": np.array([1, 2])}, False),
    ],
)
def test_who_writes_none_where_there_may_be_none_is_told_of_null(settings: dict, told: bool):
    with pytest.raises(ConfigError) as error:
        validated(PretrainConfig, {"data": ".", "method": "simclr", **settings}, "settings")
    assert ("For no value write null." in str(error.value)) == told

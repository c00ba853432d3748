from __future__ import annotations

import inspect

import pytest

from unlabel import api
from unlabel.errors import UsageError
from unlabel.evaluation.settings import EvaluationConfig


def test_the_verb_has_the_settings_own_defaults():
    defaults = EvaluationConfig()
    parameters = inspect.signature(api.evaluate).parameters
    for name in ("protocols", "labels", "seeds"):
        assert parameters[name].default == getattr(defaults, name)


def test_all_labels_have_one_name():
    assert EvaluationConfig(labels=("1%", "100%", " ALL", "5")).labels == ("1%", "all", "all", "5")


def test_a_size_that_cannot_be_read_is_told_before_any_image_is():
    with pytest.raises(UsageError, match="'5x' is no number of labels"):
        EvaluationConfig(labels=("1", "5x"))

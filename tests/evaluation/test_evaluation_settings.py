from __future__ import annotations

import inspect

from unlabel import api
from unlabel.evaluation.settings import EvaluationConfig


def test_the_verb_has_the_settings_own_defaults():
    defaults = EvaluationConfig()
    parameters = inspect.signature(api.evaluate).parameters
    for name in ("protocols", "labels", "seeds"):
        assert parameters[name].default == getattr(defaults, name)


def test_all_labels_have_one_name():
    assert EvaluationConfig(labels=("1%", "100%", " ALL", "5")).labels == ("1%", "all", "all", "5")

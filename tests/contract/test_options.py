"""Every option of every view-matching method does something: to the views, or to the losses."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import pytest
import torch

from contract.test_methods import batch_for, build, served, small_options, take_steps
from unlabel.dividing import OF_STAGES
from unlabel.methods.base import Method
from unlabel.methods.parts.multicrop import ViewOptions
from unlabel.methods.registry import methods

STEPS = 6
BESIDE: dict[str, dict[str, Any]] = {
    "small_size": {"small": 1},
    "small_scale": {"small": 1},
    "queue_start": {"queue": 8, "queue_start": 0.0},
    "queue": {"queue_start": 0.0},
    "negatives": {"negatives": 2},
    "swap": {"large": 2, "negatives": 2},
    "teacher_temperature_start": {"temperature_warmup": 0.9},
    "temperature_warmup": {"teacher_temperature_start": 0.1},
    "freeze": {"freeze": 0.0},
}
"""Options beside which an option has something to do."""
OTHER: dict[str, Any] = {
    "small_size": 24,
    "scale": (0.3, 0.9),
    "small_scale": (0.3, 0.4),
    "queue": 8,
    "queue_start": 0.9,
    "negatives": 3,
    "freeze": 0.9,
    "temperature_warmup": 0.9,
    "critic": (16,),
    "iterations": 1,
    "decay": 0.5,
    "out": 24,
    "prototypes": 24,
}
"""Other values than the default, where it is not clear what another is."""
ELSEWHERE = {
    "stages": "tests/test_dividing.py",
    "background": "needs masks: tests/training/test_layers_of_runs.py",
    "fill": "needs masks: tests/data/test_background.py",
    **dict.fromkeys(OF_STAGES, "tests/test_dividing.py"),
}
"""Options that a step shows nothing of, and what tests them."""


def options() -> list[tuple[str, str]]:
    return [
        (name, option)
        for name, method in sorted(methods().items())
        if issubclass(method.Options, ViewOptions)
        for option in method.Options.model_fields
        if option not in ELSEWHERE
    ]


def another(annotation: Any, default: Any) -> Any:
    if get_origin(annotation) is Literal:
        return next(value for value in get_args(annotation) if value != default)
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    return 0.6 * default if default else 0.5


def outcome(method: Method) -> list[float]:
    return take_steps(method, batch_for(method), STEPS)


@pytest.mark.parametrize(("name", "option"), options())
def test_another_value_changes_views_or_losses(name: str, option: str):
    field = methods()[name].Options.model_fields[option]
    known = methods()[name].Options.model_fields
    beside = {k: v for k, v in BESIDE.get(option, {}).items() if k in known}
    given = {**small_options(name), **beside}
    default = given.get(option, field.default)
    value = OTHER[option] if option in OTHER else another(field.annotation, default)
    with torch.random.fork_rng():
        usual = build(name, served(name), **beside)
        changed = build(name, served(name), **{**beside, option: value})
        if usual.spec == changed.spec:
            assert outcome(usual) != outcome(changed)

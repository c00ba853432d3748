"""What a run was asked to be: a recipe and options, checked before any image is read.

Checks come in the order of what they cost: a misspelt setting is told before torch is imported, and
everything that needs no images before a folder is ingested.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from unlabel.config import PretrainConfig, dotted, nested, validated
from unlabel.errors import ConfigError, InputMissing
from unlabel.methods import check_name
from unlabel.training.run import Run

AUTO = "auto"
"""Batch size that stands for the largest that fits."""


def merged(asked: Mapping[str, Any], recipe: Path | None) -> dict[str, Any]:
    """The recipe's settings by dotted names, with what was asked for in their place."""
    wanted = {**_read_recipe(recipe), **asked}
    if asked.get("epochs") is not None and asked.get("steps") is None:
        wanted.pop("steps", None)  # the recipe's: what is asked for goes before it
    return wanted


def check(wanted: Mapping[str, Any], out: Path | None = None, overwrite: bool = False) -> None:
    """Refuse what cannot work whatever the images are; nothing is written.

    Args:
        wanted: dotted settings, "epochs", and ``AUTO`` for the batch size.
        out: the run's folder to be, where one was named.
        overwrite: whether the run in ``out`` may be replaced.

    Raises:
        ConfigError: a setting, method or model is unknown, or has a value that cannot work.
        UsageError: both steps and epochs were given.
        InputMissing: weights or a tracker are not there.
        OutputExists: ``out`` holds something that must stay.
    """
    if out is not None:
        Run.check_place(out, overwrite)
    config = _draft(wanted)
    weights = config.model.weights
    if weights not in (None, "timm") and not Path(weights.removeprefix("local-dir:")).exists():
        raise InputMissing(f"model.weights: there is nothing at {weights}. Check the path.")
    if wanted.get("method") is not None:
        check_name(config.method)
    _check_names(wanted, config)


def without_auto(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with the batch size left to the rules where it is to be found by trial."""
    size = wanted.get("batch_size")
    return {**wanted, "batch_size": None if size == AUTO else size}


def _draft(wanted: Mapping[str, Any]) -> PretrainConfig:
    """The settings as far as they are known; what is not given has any value."""
    epochs = wanted.get("epochs")
    if epochs is not None and not (isinstance(epochs, int | float) and 0 < epochs < float("inf")):
        raise ConfigError(f"epochs: must be a number above 0 (came: {epochs!r})")
    known = {"data": ".", **without_auto(wanted)}
    values = {k: v for k, v in known.items() if v is not None and k != "epochs"}
    return validated(PretrainConfig, nested(values), "The run's settings")


def _check_names(wanted: Mapping[str, Any], config: PretrainConfig) -> None:
    """Refuse methods, models and options that are not there; imports torch and timm."""
    from unlabel.backbones.build import family_of
    from unlabel.machine import this_machine
    from unlabel.methods.registry import check_serves, get_method
    from unlabel.rules import method_for, refuse_two_lengths
    from unlabel.training.setup import check_trackers

    refuse_two_lengths(wanted)
    check_trackers(config)
    asked = wanted.get("method")
    name = asked or method_for(wanted, this_machine())[0]
    method = get_method(name)
    if wanted.get("model.name") is not None:
        check_serves(method, family_of(config.model))
    whence = "" if asked else ", which is chosen as no --method was named,"
    validated(method.Options, config.options, f"options of {name}{whence}")


def _read_recipe(recipe: Path | None) -> dict[str, Any]:
    """A YAML file of settings, nested or dotted, as dotted settings."""
    if recipe is None:
        return {}
    if not recipe.is_file():
        raise InputMissing(f"There is no recipe at {recipe}.")
    try:
        values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{recipe} is no YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{recipe} must hold settings, one NAME: VALUE a line.")
    return dict(dotted(values))

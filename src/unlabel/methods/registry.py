"""Methods by name: every module of this package that defines one is found by itself."""

from __future__ import annotations

import pkgutil
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from typing import Any

import unlabel.methods
from unlabel.backbones.base import Backbone
from unlabel.backbones.build import FAMILIES
from unlabel.config import validated
from unlabel.errors import ConfigError
from unlabel.methods.base import DataInfo, Method


@cache
def methods() -> dict[str, type[Method]]:
    """Every method by its name, in alphabetical order."""
    found = {}
    for module in pkgutil.iter_modules(unlabel.methods.__path__):
        if module.ispkg or module.name == __name__.rpartition(".")[2]:
            continue
        for value in vars(import_module(f"unlabel.methods.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Method) and "name" in vars(value):
                found[value.name] = value
    return dict(sorted(found.items()))


def get_method(name: str) -> type[Method]:
    """The method called ``name``.

    Raises:
        ConfigError: there is none of that name; the message says which there are.
    """
    known = methods()
    if name not in known:
        near = get_close_matches(name.lower(), known, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"method: there is no {name!r}.{meant} Known: {', '.join(known)}")
    return known[name]


def build_method(name: str, backbone: Backbone, options: dict[str, Any], data: DataInfo) -> Method:
    """Build the method called ``name`` around ``backbone``.

    Args:
        name: see ``methods``.
        backbone: the network to train.
        options: values of the method's ``Options`` that differ from their defaults.
        data: what is known of the images.

    Raises:
        ConfigError: unknown name, impossible options, or a backbone that cannot serve the method.
    """
    method = get_method(name)
    _check_serves(method, backbone)
    return method(backbone, validated(method.Options, options, f"options of {name}"), data)


def _check_serves(method: type[Method], backbone: Backbone) -> None:
    if method.needs <= backbone.serves:
        return
    families = {family.__name__: family.serves for family in FAMILIES.values()}
    able = [family for family, serves in families.items() if method.needs <= serves]
    raise ConfigError(
        f"method {method.name!r} cannot train a {type(backbone).__name__}: it needs "
        f"{' and '.join(sorted(method.needs - backbone.serves))} patches. "
        f"It can train {' and '.join(able)}; choose such a model"
    )

"""Methods by name: each is defined by the module of this package that is called as it is."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from unlabel.backbones.base import Backbone
from unlabel.backbones.build import FAMILIES
from unlabel.config import validated
from unlabel.errors import ConfigError
from unlabel.methods import check_name, method_names
from unlabel.methods.base import DataInfo, Method


@cache
def methods() -> dict[str, type[Method]]:
    """Every method by its name, in alphabetical order."""
    found = {}
    for name in method_names():
        for value in vars(import_module(f"unlabel.methods.{name}")).values():
            if isinstance(value, type) and issubclass(value, Method) and "name" in vars(value):
                found[value.name] = value
    return dict(sorted(found.items()))


def get_method(name: str) -> type[Method]:
    """The method called ``name``.

    Raises:
        ConfigError: there is none of that name; the message says which there are.
    """
    check_name(name)
    return methods()[name]


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
    check_serves(method, type(backbone))
    return method(backbone, validated(method.Options, options, f"options of {name}"), data)


def check_serves(method: type[Method], backbone: type[Backbone]) -> None:
    """Refuse a kind of backbone that cannot give ``method`` what it needs.

    Raises:
        ConfigError: it cannot; the message says which can.
    """
    if method.needs <= backbone.serves:
        return
    families = {family.__name__: family.serves for family in FAMILIES.values()}
    able = [family for family, serves in families.items() if method.needs <= serves]
    raise ConfigError(
        f"method {method.name!r} cannot train a {backbone.__name__}: it needs "
        f"{' and '.join(sorted(method.needs - backbone.serves))} patches. "
        f"It can train {' and '.join(able)}; choose such a model"
    )

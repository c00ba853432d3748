"""What the verbs take, from Python and from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from unlabel.errors import UsageError

if TYPE_CHECKING:
    Set = Mapping[str, Any] | Sequence[str]
    File = str | PathLike[str]
else:  # the command line evaluates these hints
    Set = Annotated[tuple[str, ...], Parameter(name="--set", show_default=False)]
    File = Path

Many = Parameter(
    consume_multiple=True, show_default=lambda values: " ".join(map(str, values)) or "none"
)
"""An option that takes several values: ``--labels 1 5 all``."""


def settings_of(given: Set) -> Mapping[str, Any]:
    """Settings by name, from a mapping or from NAME=VALUE strings whose values are YAML."""
    import yaml  # not for --help

    if isinstance(given, Mapping):
        return given
    settings = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UsageError(f"--set {text}: write NAME=VALUE, such as --set optim.lr=1e-3.")
        try:
            settings[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {text}: the value is no YAML ({error}).") from None
    return settings

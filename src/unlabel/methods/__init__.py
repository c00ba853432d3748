"""Pre-training methods: one file each, called as the method is."""

from __future__ import annotations

import pkgutil
from difflib import get_close_matches

from unlabel.errors import ConfigError

_NOT_METHODS = ("base", "registry")


def method_names() -> list[str]:
    """Every method's name, in alphabetical order; none is imported, which would take seconds."""
    modules = pkgutil.iter_modules(__path__)
    return sorted(m.name for m in modules if not m.ispkg and m.name not in _NOT_METHODS)


def check_name(name: str) -> None:
    """Refuse what no method is called.

    Raises:
        ConfigError: there is no method of that name; the message says which there are.
    """
    known = method_names()
    if name not in known:
        near = get_close_matches(name.lower(), known, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"method: there is no {name!r}.{meant} Known: {', '.join(known)}")

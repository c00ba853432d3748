"""Pre-train vision backbones on your own unlabelled images, and measure what it brought.

The verbs are functions of this module and commands of the same name::

    run = unlabel.pretrain("photos/")
    results = unlabel.evaluate(run, data="labelled/")
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"
__all__ = [
    "demo",
    "doctor",
    "embed",
    "evaluate",
    "export",
    "ingest",
    "pretrain",
    "report",
    "saliency",
    "study",
    "study_advise",
    "study_fit",
    "study_status",
]


class _Package(ModuleType):
    """Verbs stay functions: importing ``unlabel.export`` would put the module in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """Verbs load on first use, so that importing unlabel costs nothing."""
    if name in __all__:
        from unlabel import api, api_study

        return getattr(api_study if name.startswith("study") else api, name)
    raise AttributeError(f"module 'unlabel' has no attribute {name!r}")

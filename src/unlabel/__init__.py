"""Pre-train vision backbones on your own unlabelled images, and measure what it brought.

The verbs are functions of this module and commands of the same name::

    run = unlabel.pretrain("photos/")
    results = unlabel.evaluate(run, data="labelled/")
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["demo", "doctor", "embed", "evaluate", "export", "ingest", "pretrain", "report"]


def __getattr__(name: str) -> Any:
    """Verbs load on first use, so that importing unlabel costs nothing."""
    if name in __all__:
        from unlabel import api

        return getattr(api, name)
    raise AttributeError(f"module 'unlabel' has no attribute {name!r}")

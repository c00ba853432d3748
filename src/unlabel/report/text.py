"""Words and numbers of a page: whatever a name holds, it is shown as text and as nothing else."""

from __future__ import annotations

import html
import math
import re
from typing import Any

from markupsafe import Markup

# Control characters, half surrogates, and the marks that turn text around: with these a name
# could look like another, or be no valid UTF-8.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)


def plain(value: Any) -> Any:
    """``value`` as it may be printed: invisible characters of a text become U+FFFD."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return _UNSEEN.sub("\ufffd", value)
    return value


def figure_text(value: Any) -> str:
    """A text for Plotly, which reads ``<b>`` and ``<a href=...>`` in names unless escaped."""
    return html.escape(plain(str(value)), quote=False)


def number(value: float) -> str:
    """A figure for readers: 4 significant digits, thousands with commas."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """A length of time in two units at most."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours / 24:.1f} days"


def flatten(values: Any, prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names with printable values; ``{}`` if there are none."""
    if not isinstance(values, dict):
        return {prefix: _value(values)} if prefix else {}
    flat: dict[str, str] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(_value(v) for v in value) or "none"
    return str(value)

"""What every page shares: templates, scripts and style, and the policy that allows only these.

Every text is escaped, and a page's own policy (CSP) allows no script and no style but those written
here, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from unlabel.report.text import plain

HERE = Path(__file__).parent


@cache
def environment() -> Environment:
    """Of all pages' templates."""
    return Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=plain,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def assets() -> dict[str, Markup | str]:
    """Scripts and style of the page, and the policy that allows only them."""
    scripts = {"plotly": get_plotlyjs(), "script": _own("page.js")}
    style = _own("page.css")
    # Plotly makes an empty <style> and fills it through the object model.
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts.values()))}; "
        f"style-src {_hash(style)} {_hash('')}; img-src data:; base-uri 'none'; form-action 'none'"
    )
    return {name: Markup(code) for name, code in scripts.items()} | {
        "style": Markup(style),
        "policy": policy,
    }


def _own(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _hash(code: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


def script_json(value: Any) -> Markup:
    """JSON that no HTML parser can leave or misread inside a script element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)

"""docs/settings.md is what the settings say of themselves."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from pydantic import Field

from unlabel.config import OptimConfig, PretrainConfig, Settings
from unlabel.methods.registry import methods

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(DOCS / "settings.py"))


def test_the_page_is_fresh(script: dict):
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert page == script["page"](), "docs/settings.md is stale: run `make docs`"


def test_every_setting_says_what_it_is(script: dict):
    silent = [row for row in script["page"]().splitlines() if row.endswith("|  |")]
    assert not silent


def test_every_setting_has_a_row(script: dict):
    page = script["page"]()
    names = [f"| `optim.{name}` |" for name in OptimConfig.model_fields]
    names += [f"| `{name}` |" for name in PretrainConfig.model_fields if name not in GROUPS]
    names += [f"### {name}\n" for name in methods()]
    assert not [name for name in names if name not in page]


GROUPS = ("model", "optim", "options")


class Base(Settings):
    """A group."""

    shared: float = Field(0.5, gt=0, le=1)
    """Said by the base."""


class Some(Base):
    """Another."""

    shared: float = Field(0.25, gt=0, le=1)
    pair: tuple[float, float] = (0.1, 1.0)
    """With ``code`` and a | in it,
    on two lines."""


def test_a_row_has_default_kind_bounds_and_meaning(script: dict):
    rows = list(script["_table"](Some, "options."))
    assert rows == [
        "| `options.shared` | `0.25` | number, above 0, at most 1 | Said by the base. |",
        "| `options.pair` | `[0.1, 1]` | [number, number] "
        "| With `code` and a \\| in it, on two lines. |",
    ]

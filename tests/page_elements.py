"""A page made without Plotly's code and read back: its elements, visible text and figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser

from unlabel.report import shell

VOID = {"meta", "img", "br", "link", "input", "base"}


class Elements(HTMLParser):
    """Every element with its attributes and own text, and whether tags close as they should."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        """Tags and names of attributes: what a name must never change."""
        return [(tag, tuple(attributes)) for tag, attributes in self.found]

    @property
    def visible(self) -> str:
        return " ".join(
            " ".join(t for tag, t in self.texts if tag not in ("script", "style")).split()
        )


def script_json(parsed: Elements) -> dict:
    place = [a for t, a in parsed.found if t == "script"].index(
        {"type": "application/json", "id": "figures"}
    )
    return json.loads([text for tag, text in parsed.texts if tag == "script"][place])


@contextmanager
def short_plotly() -> Iterator[None]:
    """A stand-in of a few bytes for Plotly's 5 MB."""
    shell.assets.cache_clear()
    original = shell.get_plotlyjs
    shell.get_plotlyjs = lambda: "var Plotly;"
    yield
    shell.get_plotlyjs = original
    shell.assets.cache_clear()

"""What became of every item of an ingest, in a file and in a few lines."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rich.text import Text

REPORT = "report.json"
"""The report's file in a store."""
Rows = list[tuple[str, str]]
NAMED = 12
"""Classes whose names are printed."""


@dataclass
class IngestReport:
    """What became of every item: ``found`` is ``images`` (kept), ``refused`` and ``dropped``.

    ``classes`` and ``splits`` have the number of images of each. ``refused`` and ``notes`` are
    (name, reason). ``exact`` and ``near`` are pairs of names of equal images; ``overlap`` gives,
    for each store compared with, the names of images that both have.
    """

    store: str
    found: int
    images: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    refused: Rows = field(default_factory=list)
    notes: Rows = field(default_factory=list)
    exact: Rows = field(default_factory=list)
    near: Rows = field(default_factory=list)
    dropped: int = 0
    overlap: dict[str, Rows] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    """A line for each layer of masks that was written with the images."""

    @classmethod
    def read(cls, store: Path) -> IngestReport | None:
        """The report of a store, if it has one that this version can read."""
        path = store / REPORT
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return cls(**values) if "found" in values else None

    def __str__(self) -> str:
        """The report in a few lines; all of it is in the store's ``report.json``."""
        lines = [self.count(), *self._groups()]
        if self.refused:
            lines += [f"{len(self.refused):,} refused:", *by_reason(self.refused)]
        if self.notes:
            lines += [f"{len(self.notes):,} images changed on the way:", *by_reason(self.notes)]
        if self.exact or self.near:
            fate = f"{self.dropped:,} dropped" if self.dropped else "--dedupe drops them"
            pairs = f"{len(self.exact):,} exact and {len(self.near):,} near duplicates"
            lines.append(f"{pairs} ({fate}).")
        for other, shared in self.overlap.items():
            lines.append(f"{len(shared):,} images also stand in {other}.")
        lines += self.layers
        return "\n".join(lines)

    def count(self) -> str:
        """What became of how many, in one line."""
        parts = [f"{self.images:,} images kept in {self.store}"]
        if self.refused:
            parts.append(f"{len(self.refused):,} refused")
        if self.dropped:
            parts.append(f"{self.dropped:,} dropped as duplicates")
        return f"{self.found:,} found: {', '.join(parts)}."

    def _groups(self) -> list[str]:
        """Classes and splits, a line each."""
        lines = []
        if self.classes:
            fewest, most = min(self.classes.values()), max(self.classes.values())
            each = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
            names = [_visible(name) for name in self.classes]
            rest = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
            lines.append(
                f"{len(names):,} classes of {each} images: {', '.join(names[:NAMED])}{rest}."
            )
            without = self.images - sum(self.classes.values())
            if without:
                lines.append(f"{without:,} images have no label.")
        if self.splits:
            splits = (f"{_visible(name)} {count:,}" for name, count in self.splits.items())
            lines.append(f"Splits: {', '.join(splits)}.")
        return lines

    def __rich__(self) -> Text:
        """The same for a terminal; names are text and never markup."""
        return Text(str(self))


def by_reason(rows: Rows) -> list[str]:
    """How many of each reason, the commonest first, with the first name of each."""
    count = Counter(reason.split(":")[0] for _, reason in rows)
    example = {reason.split(":")[0]: name for name, reason in reversed(rows)}
    return [f"  {n:,} {why}, such as {_visible(example[why])}" for why, n in count.most_common()]


def _visible(name: str) -> str:
    """A name on one line, without characters that a terminal obeys."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)

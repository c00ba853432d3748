"""What became of every item of an ingest, in a file and in a few lines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rich.text import Text

Rows = list[tuple[str, str]]


@dataclass
class IngestReport:
    """What became of every item.

    ``refused`` and ``notes`` are (name, reason). ``exact`` and ``near`` are pairs of names of equal
    images; ``overlap`` gives, for each store compared with, the names of images that both have.
    """

    store: str
    images: int
    refused: Rows = field(default_factory=list)
    notes: Rows = field(default_factory=list)
    exact: Rows = field(default_factory=list)
    near: Rows = field(default_factory=list)
    dropped: int = 0
    overlap: dict[str, Rows] = field(default_factory=dict)

    def __str__(self) -> str:
        """The report in a few lines; all of it is in the store's ``report.json``."""
        lines = [f"{self.images:,} images in {self.store}"]
        if self.refused:
            lines += [f"{len(self.refused):,} files refused:", *by_reason(self.refused)]
        if self.notes:
            lines += [f"{len(self.notes):,} images changed on the way:", *by_reason(self.notes)]
        if self.exact or self.near:
            fate = f"{self.dropped:,} dropped" if self.dropped else "--dedupe drops them"
            pairs = f"{len(self.exact):,} exact and {len(self.near):,} near duplicates"
            lines.append(f"{pairs} ({fate}).")
        for other, shared in self.overlap.items():
            lines.append(f"{len(shared):,} images also stand in {other}.")
        return "\n".join(lines)

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

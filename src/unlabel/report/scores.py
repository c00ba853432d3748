"""The results of a run as tables: one for each protocol, subjects by numbers of labels.

Rows of ``results.json`` that lack what a table needs are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from unlabel.errors import UsageError
from unlabel.evaluation.labels import describe_size
from unlabel.evaluation.results import PROTOCOLS
from unlabel.report.text import flatten


@dataclass(frozen=True)
class Score:
    """One measured accuracy; ``accuracy``, ``low`` and ``high`` in per cent."""

    subject: str
    protocol: str
    labels: str
    accuracy: float
    low: float
    high: float
    images: int
    train_images: int
    seeds: int
    test: str
    details: str


@dataclass(frozen=True)
class ScoreTable:
    """The scores of one protocol on one set of test images."""

    title: str
    sample: str
    sizes: list[str]
    """Numbers of labels as in the file, fewest images first; ``columns`` says them in words."""
    columns: list[str]
    rows: list[tuple[str, list[Score | None]]]
    best: list[float]
    """The highest accuracy of each column."""

    @property
    def scores(self) -> list[Score]:
        """Every score of the table, row by row."""
        return [score for _, row in self.rows for score in row if score]


def read_scores(rows: Any) -> list[Score]:
    """The usable rows of ``results.json``, in their order."""
    if not isinstance(rows, list):
        return []
    return [score for row in rows if (score := _score(row)) is not None]


def subjects(scores: Iterable[Score]) -> list[str]:
    """What was compared, in order of appearance: the run itself first."""
    return list(dict.fromkeys(score.subject for score in scores))


def tables(scores: list[Score]) -> list[ScoreTable]:
    """One table for each protocol and set of test images, in the order of `PROTOCOLS`."""
    tests = list(dict.fromkeys(score.test for score in scores))
    groups: dict[tuple[str, str], list[Score]] = {}
    for score in scores:
        groups.setdefault((score.test, score.protocol), []).append(score)
    known = list(PROTOCOLS)
    order = sorted(
        groups,
        key=lambda g: (tests.index(g[0]), known.index(g[1]) if g[1] in known else len(known)),
    )
    names = subjects(scores)
    return [_table(groups[key], names, tests) for key in order]


def _table(scores: list[Score], names: list[str], tests: list[str]) -> ScoreTable:
    sizes = {score.labels: score.train_images for score in scores}
    labels = sorted(sizes, key=lambda size: (sizes[size], size))
    present = set(subjects(scores))
    cells = {(score.subject, score.labels): score for score in scores}
    title = PROTOCOLS.get(scores[0].protocol, scores[0].protocol)
    if len(tests) > 1:
        title += f", test set {tests.index(scores[0].test) + 1}"
    return ScoreTable(
        title,
        _sample(scores),
        labels,
        [describe(size) for size in labels],
        [(n, [cells.get((n, size)) for size in labels]) for n in names if n in present],
        [max(s.accuracy for s in scores if s.labels == size) for size in labels],
    )


def _sample(scores: list[Score]) -> str:
    images = sorted({score.images for score in scores})
    seeds = sorted({score.seeds for score in scores})
    count = f"{images[0]:,}" if len(images) == 1 else f"{images[0]:,} to {images[-1]:,}"
    times = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return f"{count} test images, {times} {'seed' if times == '1' else 'seeds'}"


def describe(size: str) -> str:
    """A number of labels in words; as it is where it cannot be read."""
    try:
        return describe_size(size)
    except (UsageError, ValueError):
        return size


def _score(row: Any) -> Score | None:
    try:
        return Score(
            subject=str(row["subject"]),
            protocol=str(row["protocol"]),
            labels=str(row["labels"]),
            accuracy=_percent(row["accuracy"]),
            low=_percent(row["low"]),
            high=_percent(row["high"]),
            images=int(row["images"]),
            train_images=int(row["train_images"]),
            seeds=int(row["seeds"]),
            test=str(row.get("test", "")),
            details=", ".join(f"{k}: {v}" for k, v in flatten(row.get("details")).items()),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _percent(share: Any) -> float:
    if not 0 <= share <= 1:
        raise ValueError(f"{share} is no share")
    return 100 * float(share)

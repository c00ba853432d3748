"""Measured figures: each with its protocol, labels, number of images, seeds and interval."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from unlabel.atomic import write_text_atomic
from unlabel.errors import DataError, InputMissing, UsageError
from unlabel.evaluation.intervals import interval
from unlabel.evaluation.labels import describe_size

if TYPE_CHECKING:
    import pandas as pd

PROTOCOLS = {
    "knn": "kNN",
    "linear": "Linear probe",
    "linear-sgd": "Linear probe (SGD)",
    "finetune": "Fine-tuning",
}
"""Every protocol with its name in tables, in the order of tables."""


ABREAST = 4
"""Subjects that a terminal of 80 characters shows with their intervals beside them, not below."""
UNBROKEN = 48
"""Most letters of the subjects' longest words that fit a terminal of 80 beside the rest."""


@dataclass(frozen=True)
class Result:
    """The accuracy of one subject by one protocol with so many labels.

    Accuracies lie in [0, 1]; ``low`` and ``high`` are the 95 % interval of `intervals.interval`.
    ``images`` counts test images, ``train_images`` labelled training images (of one seed).
    """

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
    """Fingerprint of the test images: figures compare only where it is the same."""
    seen: int | None = None
    """Test images that the subject was pre-trained on, pixel for pixel; ``None`` if unknown."""
    details: dict[str, Any] = field(default_factory=dict)
    """Settings and side figures of the protocol."""
    correct: np.ndarray = field(default_factory=lambda: np.empty((0, 0), bool), repr=False)
    """bool (seeds, images), true where the image was classified rightly."""

    @classmethod
    def of(
        cls,
        subject: str,
        protocol: str,
        labels: str,
        correct: np.ndarray,
        *,
        train_images: int,
        test: str,
        seen: int | None = None,
        details: dict[str, Any] | None = None,
    ) -> Result:
        """The result of ``correct``, bool (seeds, images)."""
        low, high = np.clip(interval(correct), 0, 1).tolist()  # spread seeds can pass the ends
        return cls(
            subject=subject,
            protocol=protocol,
            labels=labels,
            accuracy=float(correct.mean()),
            low=low,
            high=high,
            images=correct.shape[1],
            train_images=train_images,
            seeds=correct.shape[0],
            test=test,
            seen=seen,
            details=details or {},
            correct=correct,
        )

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes it one figure and not another."""
        return self.subject, self.protocol, self.labels, self.test

    def __str__(self) -> str:
        low, high = (f"{100 * v:.1f}" for v in (self.low, self.high))
        return f"{self.subject}: {_how(self)}: {100 * self.accuracy:.1f} % ({low} to {high})"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in ``results.json``; ``correct`` as base64 of packed bits."""
        bits = base64.b64encode(np.packbits(self.correct).tobytes()).decode()
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"correct": bits}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Result:
        """The result that `as_dict` wrote."""
        packed = np.frombuffer(base64.b64decode(values["correct"]), np.uint8)
        shape = values["seeds"], values["images"]
        correct = np.unpackbits(packed, count=shape[0] * shape[1]).astype(bool).reshape(shape)
        seen = values.get("seen")
        return cls(**values | {"correct": correct, "seen": None if seen is None else int(seen)})


@dataclass(frozen=True)
class Difference:
    """How much more accurate ``better`` is than ``worse``, on the same images and seeds.

    ``clear`` says that the 95 % interval from ``low`` to ``high`` lies wholly above zero.
    """

    better: str
    worse: str
    protocol: str
    labels: str
    gain: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether chance is an unlikely reason."""
        return self.low > 0

    def __str__(self) -> str:
        gain, low, high = (f"{100 * v:+.1f}" for v in (self.gain, self.low, self.high))
        verdict = "clearly better" if self.clear else "not clearly better"
        than = f"{self.better} is {verdict} than {self.worse}"
        return f"{_how(self)}: {than}: {gain} points ({low} to {high})"


class Results:
    """A collection of results, one of a kind: a newer one replaces the older."""

    def __init__(self, results: Iterable[Result] = ()) -> None:
        self._by_key = {result.key: result for result in results}

    def __iter__(self) -> Iterator[Result]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, result: Result) -> None:
        """Put in a result, in place of the one of the same kind."""
        self._by_key[result.key] = result

    def get(self, subject: str, protocol: str, labels: str) -> Result:
        """The newest result of this kind.

        Raises:
            UsageError: it was not measured; the message lists what was.
        """
        wanted = (subject, protocol, labels)
        found = [r for r in self if (r.subject, r.protocol, r.labels) == wanted]
        if not found:
            there = "\n".join(f"  {r.subject}, {r.protocol}, {r.labels}" for r in self) or "  none"
            raise UsageError(f"Nothing measured for {', '.join(wanted)}. Measured:\n{there}")
        return found[-1]

    def difference(self, better: str, worse: str, protocol: str, labels: str) -> Difference:
        """The paired difference of two subjects, with its 95 % interval.

        Images and seeds are resampled together for both (see `intervals.bootstrap`); seeds that
        one of them lacks are left out.

        Raises:
            UsageError: one of them was not measured.
            DataError: they were measured on different test images.
        """
        a, b = (self.get(name, protocol, labels) for name in (better, worse))
        if a.test != b.test:
            raise DataError(
                f"{better} and {worse} were measured on different test images; evaluate them again "
                "on the same ones."
            )
        seeds = min(a.seeds, b.seeds)
        scores = a.correct[:seeds].astype(np.int8) - b.correct[:seeds]
        low, high = interval(scores)
        return Difference(better, worse, protocol, labels, float(scores.mean()), low, high)

    def warnings(self) -> list[str]:
        """A sentence for each subject that learnt from images that it was measured on."""
        leaks = dict.fromkeys((r.subject, r.seen, r.images, r.test) for r in self if r.seen)
        return [
            f"{subject} has seen {seen:,} of the {images:,} test images in training, so its "
            "figures may flatter it. Keep test images in a folder named test: no run learns from "
            "them."
            for subject, seen, images, _ in leaks
        ]

    def save(self, path: Path) -> None:
        """Write all as JSON, whole or not at all."""
        write_text_atomic(path, json.dumps([r.as_dict() for r in self], indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote.

        Raises:
            InputMissing: there is no such file.
        """
        if not path.is_file():
            raise InputMissing(f"{path}: no results yet. `unlabel evaluate` writes them.")
        rows = json.loads(path.read_text(encoding="utf-8"))
        return cls(Result.from_dict(row) for row in rows)

    def to_frame(self) -> pd.DataFrame:
        """One row a result, without the single images; for ``to_csv`` and ``to_parquet``."""
        import pandas as pd

        rows = [asdict(r) for r in self]
        for row in rows:
            del row["correct"]
            row["details"] = json.dumps(row["details"])
        return pd.DataFrame(rows)

    def __rich__(self) -> Table:
        """What a terminal shows."""
        return self.table()

    def table(self, title: str = "Accuracy in %, with 95 % intervals") -> Table:
        """A table to print: a row for each protocol and number of labels, a column a subject."""
        subjects = list(dict.fromkeys(r.subject for r in self))
        warnings = "".join(f"\nWarning: {warning}" for warning in self.warnings())
        caption = f"Labels: a class, or a share of them{escape(warnings)}"
        table = Table(
            title=title,
            caption=caption,
            box=SIMPLE_HEAD,
            collapse_padding=True,
            pad_edge=False,
        )
        gap = " " if len(subjects) <= ABREAST else "\n"
        words = [len(max(subject.split(), key=len)) for subject in subjects]
        whole = sum(words) <= UNBROKEN  # else words are broken, so that every column is seen
        table.add_column("Protocol", overflow="fold", min_width=11 if whole else None)
        table.add_column("Labels", justify="right", overflow="fold", min_width=6 if whole else None)
        for subject, width in zip(subjects, words, strict=True):
            name = escape(subject.replace(" ", gap))
            least = max(width, 6) if whole else None
            table.add_column(name, justify="right", overflow="fold", min_width=least)
        cells = {(r.protocol, r.labels, r.subject): _cell(r, gap) for r in self}
        kinds = dict.fromkeys((r.protocol, r.labels) for r in self)
        previous = None
        for protocol, labels in sorted(kinds, key=lambda kind: _rank(kind[0])):
            if previous not in (None, protocol):
                table.add_section()
            name = "" if protocol == previous else PROTOCOLS.get(protocol, protocol)
            name = name.replace(" ", gap)
            row = [cells.get((protocol, labels, subject), "") for subject in subjects]
            table.add_row(name, labels, *row)
            previous = protocol
        return table


def _how(figure: Result | Difference) -> str:
    """Protocol and number of labels, in words."""
    return f"{PROTOCOLS.get(figure.protocol, figure.protocol)}, {describe_size(figure.labels)}"


def _rank(protocol: str) -> int:
    """Where a protocol stands in tables; unknown ones last."""
    return list(PROTOCOLS).index(protocol) if protocol in PROTOCOLS else len(PROTOCOLS)


def _cell(result: Result, gap: str) -> str:
    low, high = f"{100 * result.low:.0f}", f"{100 * result.high:.0f}"
    return f"{100 * result.accuracy:.1f}{gap}({low}-{high})"

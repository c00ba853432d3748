"""From sources to a store: every image is read once, verified, and written near its size of use.

The items of all sources are cut into parts, each written by one process. An interrupted ingest
finds its finished parts and goes on with the others; the store gets its name, at once, when all of
them are there.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from unlabel.atomic import discard, write_text_atomic
from unlabel.data.duplicates import overlap
from unlabel.data.encode import Plan, read
from unlabel.data.finish import finish, is_store_file
from unlabel.data.folders import IMAGES
from unlabel.data.ingest_report import IngestReport, Rows, by_reason
from unlabel.data.items import Item
from unlabel.data.labels import Labels, apply_labels
from unlabel.data.parts import cut, write_parts
from unlabel.data.pixels import MEGAPIXELS, Refused
from unlabel.data.processes import alone, cores
from unlabel.data.sources import fingerprint, list_sources
from unlabel.data.store import INFO, MANIFEST, Store
from unlabel.errors import DataError, OutputExists

__all__ = ["IngestReport", "ingest", "overlap"]

SAMPLE = 32
"""Images, spread over all, whose commonest kind (channels, type) becomes the store's."""
FORMAT = 2
"""Of the store; parts of another format are not continued."""

_JOURNAL = "journal.json"


def ingest(
    sources: Sequence[str | Path],
    out: Path,
    *,
    short_side: int | None = None,
    labels: str = "auto",
    dedupe: bool = False,
    against: Sequence[Path] = (),
    megapixels: float = MEGAPIXELS,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> IngestReport:
    """Write the store ``out`` from ``sources``; see ``sources.list_source`` for what they can be.

    Args:
        sources: in the order of the store's rows.
        out: a new folder. Work in progress stands in ``out.partial`` and is continued.
        short_side: larger images are shrunk to this shorter side, in pixels.
        labels: "auto" or "folders" (the sub-folders), "none", or ``FILE:COLUMN`` of a table.
        dedupe: keep only the first of equal images.
        against: stores to look in for the same images.
        megapixels: larger images are refused before they are decoded.
        workers: processes; one a core when not given.
        overwrite: replace the store in ``out``.
        progress: whether to show a progress bar on standard error.

    Raises:
        InputMissing: a source or table is not there.
        DataError: nothing usable was found.
        OutputExists: ``out`` is there.
        StorageError: the disk is full or failing; finished parts are kept for the next try.
        OutOfMemory: a process died; finished parts are kept.
    """
    out = Path(out)
    work = out.with_name(out.name + ".partial")
    _refuse_existing(out, work, overwrite)
    others = [Store.open(path) for path in against]
    items, refused, classes = _list(sources, labels)
    plan = _plan(items, short_side, megapixels, classes)
    parts = cut(items)
    with alone(work):
        _prepare(work, items, plan, fingerprint(sources))
        write_parts(work, parts, plan, workers or cores(), progress)
        report = finish(work, out, plan, refused, dedupe, others)
        if not report.images:
            discard(work)
            raise DataError(_nothing(sources, report.refused))
    return report


def _refuse_existing(out: Path, work: Path, overwrite: bool) -> None:
    """Only a store, and nothing beside it, is ever replaced.

    Raises:
        OutputExists: ``out`` is there, or something that is not an unfinished ingest in ``work``.
    """
    if work.exists() and any(work.iterdir()) and not (work / _JOURNAL).is_file():
        raise OutputExists(f"{work}, where ingest works, holds something else. Move it away.")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    replaceable = (out / MANIFEST).is_file() and (out / INFO).is_file()
    if overwrite and replaceable and all(is_store_file(path.name) for path in out.iterdir()):
        return
    if overwrite:
        raise OutputExists(f"{out} is no store, or holds other files too. Choose another --out.")
    raise OutputExists(
        f"{out} is there already, and nothing is overwritten unasked. Choose another --out"
        + (", or replace the store with --overwrite." if replaceable else ".")
    )


def _list(sources: Sequence[str | Path], labels: str) -> tuple[list[Item], Rows, tuple[str, ...]]:
    """Items of all sources, what was refused at sight, and the classes."""
    wanted = Labels.parse(labels)
    listing = list_sources(sources, folder_labels=wanted.kind in ("auto", "folders"))
    if not listing.items:
        raise DataError(_nothing(sources, listing.refused))
    items, classes = apply_labels(listing.items, wanted)
    return items, listing.refused, classes


def _nothing(sources: Sequence[str | Path], refused: Rows) -> str:
    where = ", ".join(str(source) for source in sources) or "no source"
    lines = "\n".join(by_reason(refused))
    said = f"No usable image was found in {where}." + (f" Refused:\n{lines}\n" if lines else " ")
    return f"{said}Read are {', '.join(sorted(IMAGES))}, .tar shards and stacks of .npy and .npz."


def _plan(
    items: list[Item], short_side: int | None, megapixels: float, classes: tuple[str, ...]
) -> Plan:
    """Decide by a few images what kind the store holds: the commonest channels and type."""
    kinds: Counter[tuple[int, str]] = Counter()
    for item in items[:: max(1, len(items) // SAMPLE)]:
        try:
            pixels = read(item, megapixels).pixels
        except Refused:
            continue
        kinds[(pixels.shape[2], str(pixels.dtype))] += 1
    channels, dtype = kinds.most_common(1)[0][0] if kinds else (3, "uint8")
    return Plan(short_side, megapixels, channels, dtype, classes)


def _prepare(work: Path, items: list[Item], plan: Plan, files: str) -> None:
    """Keep finished parts only if they were made of the same files in the same way."""
    digest = hashlib.sha256(json.dumps([FORMAT, asdict(plan), files]).encode())
    for item in items:
        digest.update(repr(item).encode("utf-8", "surrogateescape"))
    made_of = json.dumps({"items": digest.hexdigest()})
    journal = work / _JOURNAL
    if journal.is_file() and journal.read_text() == made_of:
        for path in work.glob("*.tmp"):
            path.unlink()
        return
    if work.exists():
        discard(work)
    work.mkdir()
    write_text_atomic(journal, made_of)

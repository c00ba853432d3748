"""From finished parts to a store: facts of the whole, duplicates, and its name at the very end."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from unlabel.atomic import discard, publish, write_text_atomic
from unlabel.data.duplicates import find_pairs, names_of, overlap, repeats
from unlabel.data.encode import Plan
from unlabel.data.ingest_report import REPORT, IngestReport, Rows
from unlabel.data.layers import is_layer_file
from unlabel.data.parts import copy_part
from unlabel.data.store import INFO, MANIFEST, Store, StoreFiles, StoreInfo

KEPT = "kept"
"""Folder of the parts without duplicates, below those with."""


def finish(
    work: Path, out: Path, plan: Plan, refused: Rows, dedupe: bool, others: Sequence[Store]
) -> IngestReport:
    """Make the finished parts in ``work`` the store ``out``; what is there is replaced.

    Killed at any moment, it can be done again: the parts stay as they are until ``out`` is there.
    A report of no images leaves everything as it was.

    Args:
        work: the folder with all parts and their notes.
        out: the store to be.
        plan: how the parts were made.
        refused: what no part knows of.
        dedupe: keep only the first of equal images.
        others: stores to look in for the same images.
    """
    notes = [json.loads(path.read_text()) for path in sorted(work.glob("note-*.json"))]
    unusable = [*refused, *(tuple(row) for note in notes for row in note["refused"])]
    images = len(StoreFiles(work))
    report = IngestReport(
        store=str(out),
        found=images + len(unusable),
        images=images,
        refused=unusable,
        notes=[tuple(row) for note in notes for row in note["notes"]],
    )
    if not report.images:
        return report
    store = _without_duplicates(Store(work, _info(work, plan)), report, dedupe)
    if report.dropped:
        store = Store(store.path, _info(store.path, plan))
    report.images, report.classes, report.splits = len(store), _classes(store), store.info.splits
    report.overlap = {str(other.path): overlap(store, other) for other in others}
    _describe(store, report)
    if out.exists():  # asked for by --overwrite, and known to be a store
        discard(out)
    publish(store.path, out)
    _clear(work, out)
    return report


def _classes(store: Store) -> dict[str, int]:
    """Images of each class."""
    if store.labels is None:
        return {}
    counts = np.bincount(store.labels[store.labels >= 0], minlength=len(store.info.classes))
    return dict(zip(store.info.classes, counts.tolist(), strict=True))


def _without_duplicates(store: Store, report: IngestReport, dedupe: bool) -> Store:
    """Report duplicates; with ``dedupe``, a copy of the store that has only the first of each."""
    exact, near = find_pairs(store)
    names = store.names()
    report.exact, report.near = names_of(exact, names), names_of(near, names)
    keep = ~repeats(np.concatenate([exact, near]), len(store))
    if not dedupe or keep.all():
        return store
    report.dropped = int((~keep).sum())
    kept = store.path / KEPT
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    start = 0
    for path, table in zip(store.files.paths, store.files.tables, strict=True):
        copy_part(table, kept / path.name, keep[start : start + len(table)])
        start += len(table)
    return Store(kept, store.info)


def _info(folder: Path, plan: Plan) -> StoreInfo:
    """Facts of the whole store, from its parts."""
    files = StoreFiles(folder)
    labels, splits = files.column("label"), files.values("split")
    short = files.sizes.min(axis=1)
    mean, std = _mean_and_std(files, plan.channels)
    digest = hashlib.sha256(json.dumps([plan.short_side, plan.classes, splits]).encode())
    for column in (files.column("hash"), labels, files.sizes):
        digest.update(column.tobytes())
    return StoreInfo(
        images=len(files),
        classes=plan.classes,
        splits=dict(Counter(split for split in splits if split)),
        channels=plan.channels,
        dtype=plan.dtype,
        min_side=int(short.min()),
        median_side=int(np.median(short)),
        mean=tuple(round(float(m), 6) for m in mean),
        std=tuple(round(max(float(s), 1e-3), 6) for s in std),
        fingerprint=digest.hexdigest()[:16],
    )


def _mean_and_std(files: StoreFiles, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Of all pixels that were measured, (C,) each; a part at a time."""
    parts = (table.column("moments").combine_chunks().flatten() for table in files.tables)
    sums = [part.to_numpy().reshape(-1, 3, channels).sum(axis=0) for part in parts]
    count, total, squares = np.sum(sums, axis=0)
    mean = total / count
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 0))


def _describe(store: Store, report: IngestReport) -> None:
    """Write what describes the store; the manifest, which makes it one, comes last."""
    write_text_atomic(store.path / INFO, json.dumps(store.info.as_dict(), indent=2))
    write_text_atomic(store.path / REPORT, json.dumps(asdict(report), indent=2))
    files = [*store.path.glob("part-*.arrow"), store.path / INFO, store.path / REPORT]
    sizes = {path.name: path.stat().st_size for path in sorted(files)}
    write_text_atomic(store.path / MANIFEST, json.dumps({"sizes": sizes}, indent=2))


def _clear(work: Path, out: Path) -> None:
    """Remove what only an unfinished ingest needs."""
    shutil.rmtree(work, ignore_errors=True)
    for path in out.iterdir():
        if not is_store_file(path.name):
            os.unlink(path)


def is_store_file(name: str) -> bool:
    """Whether a finished store has a file of this name."""
    is_part = name.startswith("part-") and name.endswith(".arrow")
    return is_part or is_layer_file(name) or name in (INFO, REPORT, MANIFEST)

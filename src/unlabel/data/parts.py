"""The parts of a store, each written by one process and counted when its note is there.

A part is an Arrow file of several chunks and a note of what was refused. The note comes
last, so an interrupted ingest finds which parts are finished.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from unlabel.atomic import write_text_atomic
from unlabel.data.encode import SCHEMA, Encoder, Plan, read
from unlabel.data.items import Item
from unlabel.data.pixels import Refused
from unlabel.data.processes import count_through, part_length

CHUNK_BYTES = 2**26
"""Compressed images that a process holds before it writes them."""

Part = tuple[int, list[Item]]


def cut(items: list[Item]) -> list[Part]:
    """Number and items of each part, by the number of items alone."""
    length = part_length(len(items))
    return [(k, items[s : s + length]) for k, s in enumerate(range(0, len(items), length))]


def note_of(work: Path, number: int) -> Path:
    """Where a part's note stands."""
    return work / f"note-{number:05d}.json"


def write_parts(work: Path, parts: list[Part], plan: Plan, workers: int, progress: bool) -> None:
    """Write the parts that have no note yet, over ``workers`` processes.

    Raises:
        OSError: the disk is full or failing.
        OutOfMemory: a process died.
    """
    missing = [part for part in parts if not note_of(work, part[0]).is_file()]
    total = sum(len(items) for _, items in parts)
    count_through(
        "Ingesting",
        partial(write_part, work, plan),
        missing,
        total=total,
        done=total - sum(len(items) for _, items in missing),
        workers=workers,
        progress=progress,
    )


def write_part(work: Path, plan: Plan, part: Part) -> int:
    """Decode and write one part; its note, which makes it count, comes last."""
    number, items = part
    note = _Note()
    write_arrow(work / f"part-{number:05d}.arrow", _batches(items, Encoder(plan), note))
    write_text_atomic(note_of(work, number), json.dumps(asdict(note)))
    return len(items)


def _batches(items: list[Item], encoder: Encoder, note: _Note) -> Iterator[pa.RecordBatch]:
    """The items' rows, in batches of a bounded size; what is refused goes into the note."""
    rows: list[dict[str, Any]] = []
    size = 0
    for item in items:
        try:
            found = read(item, encoder.plan.megapixels)
            row = encoder.row(item, found)
        except Refused as refusal:
            note.refused.append((item.name, str(refusal)))
            continue
        if found.note:
            note.notes.append((item.name, found.note))
        rows.append(row)
        size += len(row["image"])
        if size >= CHUNK_BYTES:
            yield _batch(rows)
            rows, size = [], 0
    if rows:
        yield _batch(rows)


def _batch(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    columns = {name: [row[name] for row in rows] for name in SCHEMA.names}
    return pa.record_batch(columns, schema=SCHEMA)


def write_arrow(path: Path, batches: Iterator[pa.RecordBatch], schema: pa.Schema = SCHEMA) -> None:
    """Write one Arrow file: whole and on the disk, or not there."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        with pa.ipc.new_stream(file, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def copy_part(table: pa.Table, target: Path, keep: np.ndarray) -> None:
    """Write the rows of one part that are to be kept: bool (rows,)."""
    kept = table.filter(pa.array(keep))
    write_arrow(target, (batch for batch in kept.to_batches() if len(batch)))


@dataclass
class _Note:
    """What is known of a part besides its rows: refusals and remarks, as (name, reason)."""

    refused: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

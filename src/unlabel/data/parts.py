"""The parts of a store, each written by one process and counted when its note is there.

A part is an Arrow file of several chunks and a note of what was refused and measured. The note
comes last, so an interrupted ingest finds which parts are finished.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unlabel.atomic import write_text_atomic
from unlabel.data.encode import SCHEMA, Encoder, Plan, read
from unlabel.data.items import Item
from unlabel.data.pixels import Refused
from unlabel.errors import OutOfMemory

PARTS = 64
"""Parts that a set is cut into, as long as ``SHORTEST`` and ``LONGEST`` items allow it."""
SHORTEST, LONGEST = 32, 4096
CHUNK_BYTES = 2**26
"""Compressed images that a process holds before it writes them."""

Part = tuple[int, list[Item]]
Step = Callable[[Part], int]


def cut(items: list[Item]) -> list[Part]:
    """Number and items of each part, by the number of items alone."""
    length = min(max(len(items) // PARTS, SHORTEST), LONGEST)
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
    columns = (TextColumn("Ingesting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    missing = [part for part in parts if not note_of(work, part[0]).is_file()]
    total = sum(len(items) for _, items in parts)
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        done = total - sum(len(items) for _, items in missing)
        task = bar.add_task("", total=total, completed=done)
        for count in _each(partial(write_part, work, plan), missing, workers):
            bar.advance(task, count)


def _each(step: Step, parts: list[Part], workers: int) -> Iterator[int]:
    """Do ``step`` for every part, over processes where that pays; the number of items of each."""
    if workers <= 1 or len(parts) <= 1:
        yield from map(step, parts)
        return
    # A fresh process holds none of this one's threads and locks.
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    count = min(workers, len(parts))
    try:
        with ProcessPoolExecutor(count, mp_context=context, initializer=_start) as pool:
            yield from pool.map(step, parts)
    except BrokenProcessPool:
        raise OutOfMemory(
            "A process that decoded images died, most often for want of memory. Run the same "
            "command again with --workers 1; finished parts are kept. (In a script of your own, "
            'call ingest below: if __name__ == "__main__":)'
        ) from None


def _start() -> None:
    """One thread a process, and none that outlives a killed parent."""
    cv2.setNumThreads(0)
    if parent := multiprocessing.parent_process():
        wait = partial(_leave_with, parent)
        threading.Thread(target=wait, daemon=True).start()


def _leave_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def write_part(work: Path, plan: Plan, part: Part) -> int:
    """Decode and write one part; its note, which makes it count, comes last."""
    number, items = part
    note = _Note(plan.channels)
    write_arrow(work / f"part-{number:05d}.arrow", _batches(items, Encoder(plan), note))
    write_text_atomic(note_of(work, number), note.as_json())
    return len(items)


def _batches(items: list[Item], encoder: Encoder, note: _Note) -> Iterator[pa.RecordBatch]:
    """The items' rows, in batches of a bounded size; what is refused goes into the note."""
    rows: list[dict[str, Any]] = []
    size = 0
    for item in items:
        try:
            found = read(item, encoder.plan.megapixels)
            row, pixels = encoder.row(item, found)
        except Refused as refusal:
            note.refused.append((item.name, str(refusal)))
            continue
        if found.note:
            note.notes.append((item.name, found.note))
        note.add(pixels)
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


def write_arrow(path: Path, batches: Iterator[pa.RecordBatch]) -> None:
    """Write one Arrow file: whole and on the disk, or not there."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        with pa.ipc.new_stream(file, SCHEMA) as writer:
            for batch in batches:
                writer.write_batch(batch)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def copy_part(table: pa.Table, target: Path, keep: np.ndarray) -> None:
    """Write the rows of one part that are to be kept: bool (rows,)."""
    kept = table.filter(pa.array(keep))
    write_arrow(target, (batch for batch in kept.to_batches() if len(batch)))


class _Note:
    """What is known of a part: refusals, remarks, and sums of its pixels for mean and spread."""

    def __init__(self, channels: int) -> None:
        self.refused: list[tuple[str, str]] = []
        self.notes: list[tuple[str, str]] = []
        self.sums = np.zeros((3, channels))

    def add(self, pixels: np.ndarray) -> None:
        """Count one image (H, W, C) in, thinned out where it is large."""
        step = max(1, min(pixels.shape[:2]) // 64)
        values = pixels[::step, ::step].reshape(-1, pixels.shape[2]).astype(np.float64)
        if pixels.dtype != np.float32:
            values /= np.iinfo(pixels.dtype).max
        self.sums += [np.full(values.shape[1], len(values)), values.sum(0), (values**2).sum(0)]

    def as_json(self) -> str:
        """Everything as plain values."""
        return json.dumps(
            {"refused": self.refused, "notes": self.notes, "moments": self.sums.tolist()}
        )

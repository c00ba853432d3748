"""Making a layer: a mask of every image of a store, over processes.

The rows are cut into parts, each written by one process. What is interrupted finds its finished
parts and goes on with the others; the layer gets its name, at once, when all of them are there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from unlabel.atomic import discard, publish, write_text_atomic
from unlabel.data.blobs import Blobs, open_part
from unlabel.data.layers import INFO, LayerInfo
from unlabel.data.parts import write_arrow
from unlabel.data.processes import alone, cores, count_through, part_length
from unlabel.data.store import Store
from unlabel.errors import DataError, OutputExists

SCHEMA = pa.schema({"mask": pa.large_binary()})
JOURNAL = "journal.json"
FORMAT = 1
"""Of layers; parts of another format are not continued."""

Maker = Callable[[Store], Iterable["np.ndarray | None"]]
"""Gives a mask (h, w), or ``None``, for each image of a view of a store, in order."""


def write_layer(
    store: Store,
    name: str,
    kind: str,
    make: Maker,
    *,
    options: dict[str, Any],
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> LayerInfo:
    """Write the layer ``name`` of a whole store.

    Args:
        store: its path and images.
        name: "foreground", whose masks are 0 or 255, or "segments", whose are ids from 0.
        kind: what ``make`` is called.
        make: fit to be sent to another process where there are several.
        options: all that the masks depend on besides ``kind``, fit for JSON.
        workers: processes; one a core when not given.
        overwrite: replace the layer if it is there.
        progress: whether to show a progress bar on standard error.

    Raises:
        OutputExists: the layer is there, or another process is writing it.
        DataError: no image has a mask.
        StorageError: the disk is full or failing; finished parts are kept for the next try.
        OutOfMemory: a process died; finished parts are kept.
    """
    target, work = store.path / name, store.path / f"{name}.partial"
    if target.exists() and not overwrite:
        raise OutputExists(
            f"{store.path} has the layer {name!r} already. Replace it with --overwrite, or only "
            f"look at it: unlabel saliency {store.path} --preview"
        )
    store = Store(store.path, store.info)
    with alone(work):
        _prepare(work, [FORMAT, kind, options, store.info.fingerprint])
        _write_parts(work, store, make, workers or cores(), progress)
        info = _describe(work, kind, options, store)
        if target.exists():
            discard(target)
        publish(work, target)
    return info


def _prepare(work: Path, made_of: list[Any]) -> None:
    """Keep finished parts only if they were made of the same images in the same way."""
    text = json.dumps(made_of)
    journal = work / JOURNAL
    if journal.is_file() and journal.read_text(encoding="utf-8") == text:
        for path in work.glob("*.tmp"):
            path.unlink()
        return
    if work.exists():
        discard(work)
    work.mkdir()
    write_text_atomic(journal, text)


def _write_parts(work: Path, store: Store, make: Maker, workers: int, progress: bool) -> None:
    length = part_length(len(store))
    starts = range(0, len(store), length)
    parts = [(_part(work, k), store.rows[s : s + length]) for k, s in enumerate(starts)]
    missing = [part for part in parts if not part[0].is_file()]
    count_through(
        f"Masks: {work.stem}",
        partial(_write_part, store, make),
        missing,
        total=len(store),
        done=len(store) - sum(len(rows) for _, rows in missing),
        workers=workers,
        progress=progress,
    )


def _part(work: Path, number: int) -> Path:
    return work / f"part-{number:05d}.arrow"


def _write_part(store: Store, make: Maker, part: tuple[Path, np.ndarray]) -> int:
    path, rows = part
    masks = [_encode(mask) for mask in make(store.select(rows))]
    write_arrow(path, iter([pa.record_batch({"mask": masks}, schema=SCHEMA)]), SCHEMA)
    return len(rows)


def _encode(mask: np.ndarray | None) -> bytes:
    """A PNG, of one bit a pixel where that is enough; nothing for no mask."""
    if mask is None:
        return b""
    bilevel = not ((mask > 0) & (mask < 255)).any()
    _, encoded = cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_BILEVEL, int(bilevel)])
    return encoded.tobytes()


def _describe(work: Path, kind: str, options: dict[str, Any], store: Store) -> LayerInfo:
    """Write ``layer.json`` beside the finished parts.

    Raises:
        DataError: no image has a mask.
    """
    parts = sorted(work.glob("part-*.arrow"))
    masks = Blobs([open_part(part) for part in parts], "mask")
    digest, empty = hashlib.sha256(), 0
    for row in range(len(store)):
        digest.update(len(masks[row]).to_bytes(8, "little"))
        digest.update(masks[row])
        empty += not len(masks[row])
    if empty == len(store):
        discard(work)
        raise DataError(
            f"{kind} finds no foreground in any of the {len(store):,} images, so there is no layer "
            "to write. Look at other kinds: docs/saliency.md says where each of them works."
        )
    info = LayerInfo(
        kind=kind,
        options=options,
        images=len(store),
        empty=empty,
        store=store.info.fingerprint,
        fingerprint=digest.hexdigest()[:16],
        sizes={part.name: part.stat().st_size for part in parts},
    )
    write_text_atomic(work / INFO, info.as_json())
    return info

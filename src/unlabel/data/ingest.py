"""From sources to a store: every image is read once, verified, and written near its size of use.

The items of all sources are cut into parts of a fixed length. Each part becomes one Arrow file,
written aside and renamed, with a note of what was refused. An interrupted ingest finds its finished
parts and goes on with the others; the store gets its name, at once, when all of them are there.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import simplejpeg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unlabel.atomic import write_text_atomic
from unlabel.data.decode import MEGAPIXELS, Decoded, Refused, as_image, decode
from unlabel.data.duplicates import THUMBNAIL, exact_pairs, near_pairs, repeats, sketch
from unlabel.data.labels import Labels, apply_labels
from unlabel.data.sources import Item, list_source
from unlabel.data.store import (
    INFO,
    JPEG,
    MANIFEST,
    PNG,
    RAW,
    Store,
    StoreFiles,
    StoreInfo,
    open_part,
)
from unlabel.errors import DataError, OutputExists, StorageError

PART = 2048
"""Items of one part: what an interrupted ingest may have to read again, a process."""
RAW_SIDE = 64
"""Shorter side up to which pixels are stored as they are: faster to read than to decompress."""
QUALITY = 95
"""Of JPEGs written for images that were shrunk, with full colour resolution."""
SAMPLE = 64
"""First images that decide what kind of image (channels, type) the store holds."""

SCHEMA = pa.schema(
    {
        "image": pa.large_binary(),
        "kind": pa.uint8(),
        "height": pa.int32(),
        "width": pa.int32(),
        "label": pa.int64(),
        "split": pa.string(),
        "name": pa.string(),
        "hash": pa.uint64(),
        "sketch": pa.uint64(),
        "thumbnail": pa.binary(THUMBNAIL**2),
    }
)


@dataclass
class IngestReport:
    """What became of every item.

    ``refused`` and ``notes`` are (name, reason). ``exact`` and ``near`` are pairs of names of equal
    images; ``overlap`` gives, for each store compared with, the names of images that both have.
    """

    store: str
    images: int
    refused: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    exact: list[tuple[str, str]] = field(default_factory=list)
    near: list[tuple[str, str]] = field(default_factory=list)
    dropped: int = 0
    overlap: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def __str__(self) -> str:
        """The report in a few lines; all of it is in the store's ``report.json``."""
        lines = [f"{self.images:,} images in {self.store}"]
        if self.refused:
            lines.append(f"{len(self.refused):,} files refused:")
            lines += _by_reason(self.refused)
        if self.notes:
            lines.append(f"{len(self.notes):,} images changed on the way:")
            lines += _by_reason(self.notes)
        if self.exact or self.near:
            fate = f"{self.dropped:,} dropped" if self.dropped else "--dedupe drops them"
            pairs = f"{len(self.exact):,} exact and {len(self.near):,} near duplicates"
            lines.append(f"{pairs} ({fate}).")
        for other, shared in self.overlap.items():
            lines.append(f"{len(shared):,} images also stand in {other}.")
        return "\n".join(lines)


def _by_reason(rows: list[tuple[str, str]]) -> list[str]:
    count = Counter(reason.split(":")[0] for _, reason in rows)
    example = {reason.split(":")[0]: name for name, reason in reversed(rows)}
    return [f"  {n:,} {reason}, such as {example[reason]}" for reason, n in count.most_common()]


@dataclass(frozen=True)
class _Plan:
    """What each part needs to know; changing any of it starts an ingest anew."""

    short_side: int | None
    megapixels: float
    channels: int
    dtype: str


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
    """
    out = Path(out)
    if out.exists() and not (overwrite and ((out / MANIFEST).is_file() or not any(out.iterdir()))):
        raise OutputExists(
            f"{out} is there already, and nothing is overwritten unasked. Choose another --out"
            + (", or replace the store with --overwrite." if (out / MANIFEST).is_file() else ".")
        )
    others = [Store.open(path) for path in against]
    items, refused, classes = _list(sources, labels)
    plan = _plan(items, short_side, megapixels)
    work = out.with_name(out.name + ".partial")
    try:
        _prepare(work, items, plan, classes)
        _write_parts(work, items, plan, classes, workers, progress)
        report = _finish(work, out, items, plan, classes, dedupe, refused, others)
    except OSError as error:
        raise StorageError(
            f"Writing {work} failed: {error.strerror or error}. What is finished is kept; make "
            "room and run the same command again."
        ) from error
    return report


def overlap(ours: Store, theirs: Store) -> list[tuple[str, str]]:
    """Names (in ``ours``, in ``theirs``) of images that both have, exactly or nearly."""
    split = len(ours)
    hashes = np.concatenate([ours.column("hash"), theirs.column("hash")])
    sketches = np.concatenate([ours.column("sketch"), theirs.column("sketch")])
    thumbnails = np.concatenate([_thumbnails(ours), _thumbnails(theirs)])
    pairs = np.concatenate([exact_pairs(hashes), near_pairs(sketches, thumbnails)])
    across = np.unique(pairs[(pairs[:, 0] < split) & (pairs[:, 1] >= split)], axis=0)
    names, other = ours.names(), theirs.names()
    return [(names[i], other[j - split]) for i, j in across]


def _list(
    sources: Sequence[str | Path], labels: str
) -> tuple[list[Item], list[tuple[str, str]], tuple[str, ...]]:
    """Items of all sources, what was refused at sight, and the classes."""
    items: list[Item] = []
    refused: list[tuple[str, str]] = []
    for source in sources:
        listing = list_source(source, folder_labels=labels in ("auto", "folders"))
        items += listing.items
        refused += listing.refused
    if not items:
        raise DataError(_nothing(sources, refused))
    items, classes = apply_labels(items, Labels.parse(labels))
    return items, refused, classes


def _nothing(sources: Sequence[str | Path], refused: list[tuple[str, str]]) -> str:
    where = ", ".join(str(source) for source in sources) or "no source"
    lines = "\n".join(_by_reason(refused))
    return f"No usable image was found in {where}." + (f" Refused:\n{lines}" if lines else "")


def _plan(items: list[Item], short_side: int | None, megapixels: float) -> _Plan:
    """Decide by the first images what kind the store holds: the commonest channels and type."""
    kinds: Counter[tuple[int, str]] = Counter()
    step = max(1, len(items) // SAMPLE)
    for item in items[::step]:
        try:
            pixels = _read(item, megapixels).pixels
        except Refused:
            continue
        kinds[(pixels.shape[2], str(pixels.dtype))] += 1
    channels, dtype = kinds.most_common(1)[0][0] if kinds else (3, "uint8")
    return _Plan(short_side, megapixels, channels, dtype)


def _prepare(work: Path, items: list[Item], plan: _Plan, classes: tuple[str, ...]) -> None:
    """Keep finished parts only if they were made of the same items in the same way."""
    work.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(json.dumps([asdict(plan), classes]).encode())
    for item in items:
        digest.update(repr(item).encode("utf-8", "surrogateescape"))
    journal = work / "journal.json"
    if journal.is_file() and json.loads(journal.read_text())["items"] == digest.hexdigest():
        return
    for path in work.iterdir():
        path.unlink()
    write_text_atomic(journal, json.dumps({"items": digest.hexdigest()}))


def _write_parts(
    work: Path,
    items: list[Item],
    plan: _Plan,
    classes: tuple[str, ...],
    workers: int | None,
    progress: bool,
) -> None:
    starts = [s for s in range(0, len(items), PART) if not (work / _note(s)).is_file()]
    job = partial(_write_part, work, plan, {name: i for i, name in enumerate(classes)})
    parts = [(start, items[start : start + PART]) for start in starts]
    columns = (TextColumn("Ingesting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        done = len(items) - sum(len(part) for _, part in parts)
        task = bar.add_task("", total=len(items), completed=done)
        for count in _each(job, parts, workers):
            bar.advance(task, count)


def _each(job: Any, parts: list[tuple[int, list[Item]]], workers: int | None) -> Iterator[int]:
    """Do ``job`` for every part, over processes where that pays; the number of items of each."""
    workers = workers if workers is not None else len(os.sched_getaffinity(0))
    if workers <= 1 or len(parts) <= 1:
        for part in parts:
            yield job(part)
        return
    # A fresh process holds none of this one's threads and locks.
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        yield from pool.map(job, parts)


def _one_thread() -> None:
    cv2.setNumThreads(0)


def _note(start: int) -> str:
    return f"note-{start // PART:05d}.json"


def _write_part(
    work: Path, plan: _Plan, classes: dict[str, int], part: tuple[int, list[Item]]
) -> int:
    """Decode and write one part; its note, which makes it count, comes last."""
    start, items = part
    rows: list[dict[str, Any]] = []
    refused: list[tuple[str, str]] = []
    notes: list[tuple[str, str]] = []
    moments = _Moments(plan.channels)
    for item in items:
        try:
            found = _read(item, plan.megapixels)
            row, pixels = _row(item, found, plan, classes)
        except Refused as refusal:
            refused.append((_printable(item.name), str(refusal)))
            continue
        rows.append(row)
        moments.add(pixels)
        if found.note:
            notes.append((row["name"], found.note))
    _write_arrow(work / f"part-{start // PART:05d}.arrow", rows)
    note = {"refused": refused, "notes": notes, "moments": moments.as_dict()}
    write_text_atomic(work / _note(start), json.dumps(note))
    return len(items)


def _read(item: Item, megapixels: float) -> Decoded:
    content = item.reader.read()
    if isinstance(content, np.ndarray):
        return as_image(content, megapixels)
    return decode(content, megapixels)


def _row(
    item: Item, found: Decoded, plan: _Plan, classes: dict[str, int]
) -> tuple[dict[str, Any], np.ndarray]:
    pixels = found.pixels
    if (pixels.shape[2], str(pixels.dtype)) != (plan.channels, plan.dtype):
        raise Refused(
            f"of another kind: {pixels.shape[2]} x {pixels.dtype} among images of "
            f"{plan.channels} x {plan.dtype}"
        )
    mark, thumbnail = sketch(pixels)
    content = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).digest()
    kind, data, pixels = _encode(found, plan)
    return {
        "image": data,
        "kind": kind,
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "label": classes.get(item.label, -1) if item.label is not None else -1,
        "split": item.split,
        "name": _printable(item.name),
        "hash": int.from_bytes(content[:8], "big"),
        "sketch": mark,
        "thumbnail": thumbnail.tobytes(),
    }, pixels


def _encode(found: Decoded, plan: _Plan) -> tuple[int, bytes, np.ndarray]:
    """Bytes to store: what is small, or not a photograph, without loss."""
    pixels, shrunk = _shrink(found.pixels, plan.short_side)
    if pixels.dtype != np.uint8 or pixels.shape[2] != 3 or min(pixels.shape[:2]) <= RAW_SIDE:
        return RAW, np.ascontiguousarray(pixels).tobytes(), pixels
    if shrunk:
        data = simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels), quality=QUALITY, colorsubsampling="444"
        )
        return JPEG, data, pixels
    if found.jpeg is not None:
        return JPEG, found.jpeg, pixels
    _, encoded = cv2.imencode(".png", pixels[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return PNG, encoded.tobytes(), pixels


def _shrink(pixels: np.ndarray, short_side: int | None) -> tuple[np.ndarray, bool]:
    height, width = pixels.shape[:2]
    if short_side is None or min(height, width) <= short_side:
        return pixels, False
    scale = short_side / min(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return small.reshape(size[1], size[0], pixels.shape[2]), True


def _printable(name: str) -> str:
    """A name that any text file takes: bytes that are no UTF-8 are written as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _write_arrow(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = {name: [row[name] for row in rows] for name in SCHEMA.names}
    batch = pa.record_batch(columns, schema=SCHEMA)
    temporary = path.with_suffix(".tmp")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_batch(batch)
    os.replace(temporary, path)


class _Moments:
    """Sums of pixels and of their squares, a channel, over every image."""

    def __init__(self, channels: int) -> None:
        self.sums = np.zeros((3, channels))

    def add(self, pixels: np.ndarray) -> None:
        """Add one image (H, W, C)."""
        step = max(1, min(pixels.shape[:2]) // 64)
        values = pixels[::step, ::step].reshape(-1, pixels.shape[2]).astype(np.float64)
        if pixels.dtype != np.float32:
            values /= np.iinfo(pixels.dtype).max
        self.sums += [np.full(values.shape[1], len(values)), values.sum(0), (values**2).sum(0)]

    def as_dict(self) -> list[list[float]]:
        """The sums as plain values."""
        return self.sums.tolist()


def _finish(
    work: Path,
    out: Path,
    items: list[Item],
    plan: _Plan,
    classes: tuple[str, ...],
    dedupe: bool,
    refused: list[tuple[str, str]],
    others: list[Store],
) -> IngestReport:
    """Gather the parts' notes, find duplicates, and give the store its name."""
    notes = [json.loads(path.read_text()) for path in sorted(work.glob("note-*.json"))]
    report = IngestReport(
        str(out),
        0,
        [*((_printable(name), reason) for name, reason in refused)]
        + [tuple(row) for note in notes for row in note["refused"]],
        [tuple(row) for note in notes for row in note["notes"]],
    )
    sums = np.sum([note["moments"] for note in notes], axis=0)
    store = Store(work, _info(work, plan, classes, sums))
    if len(store) == 0:
        raise DataError(_nothing([out], report.refused))
    pairs = _find_duplicates(store, report)
    if dedupe and len(pairs):
        keep = ~repeats(pairs, len(store))
        report.dropped = int((~keep).sum())
        _drop(work, keep)
        store = Store(work, _info(work, plan, classes, sums))
    report.images = len(store)
    report.overlap = {str(other.path): overlap(store, other) for other in others}
    _seal(work, out, store.info, report)
    return report


def _find_duplicates(store: Store, report: IngestReport) -> np.ndarray:
    exact = exact_pairs(store.column("hash"))
    near = near_pairs(store.column("sketch"), _thumbnails(store))
    known = {tuple(pair) for pair in exact}
    repeated = set(exact[:, 1].tolist())
    near = np.array(
        [p for p in near if tuple(p) not in known and not repeated & set(p.tolist())], np.int64
    ).reshape(-1, 2)
    names = store.names()
    report.exact = [(names[i], names[j]) for i, j in exact]
    report.near = [(names[i], names[j]) for i, j in near]
    return np.concatenate([exact, near])


def _thumbnails(store: Store) -> np.ndarray:
    joined = b"".join(store.files.values("thumbnail"))
    return np.frombuffer(joined, np.uint8).reshape(-1, THUMBNAIL**2)[store.rows]


def _info(work: Path, plan: _Plan, classes: tuple[str, ...], sums: np.ndarray) -> StoreInfo:
    """Facts of the whole store, from its parts."""
    files = StoreFiles(work)
    hashes, labels = files.column("hash"), files.column("label")
    images = len(hashes)
    short = files.sizes.min(axis=1) if images else np.zeros(1, np.int32)
    splits = Counter(split for split in files.values("split") if split)
    count, total, squares = np.maximum(sums, 1e-12)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    digest = hashlib.sha256(hashes.tobytes() + labels.tobytes() + "\0".join(classes).encode())
    return StoreInfo(
        images=images,
        classes=classes,
        splits=dict(splits),
        channels=plan.channels,
        dtype=plan.dtype,
        min_side=int(short.min()),
        median_side=int(np.median(short)),
        mean=tuple(round(float(m), 6) for m in mean),
        std=tuple(round(max(float(s), 1e-3), 6) for s in std),
        fingerprint=digest.hexdigest()[:16],
    )


def _drop(work: Path, keep: np.ndarray) -> None:
    """Rewrite the parts without the rows that are not kept."""
    start = 0
    for path in sorted(work.glob("part-*.arrow")):
        table = open_part(path)
        kept = table.filter(pa.array(keep[start : start + len(table)])).combine_chunks()
        start += len(table)
        _write_arrow(path, kept.to_pylist())


def _seal(work: Path, out: Path, info: StoreInfo, report: IngestReport) -> None:
    """Write what describes the store, its manifest last, and rename the folder."""
    write_text_atomic(work / INFO, json.dumps(info.as_dict(), indent=2))
    write_text_atomic(work / "report.json", json.dumps(asdict(report), indent=2))
    for path in [*work.glob("note-*.json"), work / "journal.json"]:
        path.unlink(missing_ok=True)
    files = sorted(path for path in work.iterdir() if path.suffix in (".arrow", ".json"))
    for path in files:
        _flush(path)
    sizes = {path.name: path.stat().st_size for path in files}
    write_text_atomic(work / MANIFEST, json.dumps({"sizes": sizes}, indent=2))
    if out.exists():  # asked for by --overwrite, and checked to be a store
        old = out.with_name(out.name + ".replaced")
        os.rename(out, old)
        os.rename(work, out)
        for path in old.iterdir():
            path.unlink()
        old.rmdir()
    else:
        os.rename(work, out)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())

"""A plain folder given to a command becomes a store in a cache, once."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from unlabel.data.ingest import ingest
from unlabel.data.store import Store
from unlabel.errors import InputMissing


def cache_folder() -> Path:
    """Where stores of plain folders are kept: ``$UNLABEL_CACHE`` or ``~/.cache/unlabel``."""
    return Path(os.environ.get("UNLABEL_CACHE", Path.home() / ".cache" / "unlabel"))


def open_or_ingest(sources: Sequence[str | Path]) -> Store:
    """The store at the one path given, or the cached store of plain sources.

    A cached store is used again as long as every file's name, size and time of change are the
    same; otherwise the sources are ingested anew beside it.

    Raises:
        InputMissing: nothing was named, or a named source is not there.
        DataError: the sources hold no image that can be used.
    """
    if not sources:
        raise InputMissing("No images were named. Give a folder: unlabel pretrain photos/")
    if len(sources) == 1 and (Path(sources[0]) / "manifest.json").is_file():
        return Store.open(Path(sources[0]))
    out = cache_folder() / f"{_readable(sources[0])}-{_fingerprint(sources)}"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        ingest(sources, out)
    return Store.open(out)


def _readable(source: str | Path) -> str:
    name = Path(source).resolve().name if Path(source).exists() else str(source)
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:40] or "images"


def _fingerprint(sources: Sequence[str | Path]) -> str:
    """Hash of the sources' files: names, sizes and times of change, never their contents."""
    digest = hashlib.sha256()
    for source in sources:
        path = Path(source)
        if not path.exists():
            digest.update(f"{source}\0".encode("utf-8", "surrogateescape"))
            continue
        digest.update(os.fsencode(path.resolve()))
        for name, size, changed in sorted(_files(path)):
            digest.update(os.fsencode(name) + f"\0{size}\0{changed}\0".encode())
    return digest.hexdigest()[:12]


def _files(path: Path) -> Iterator[tuple[str, int, int]]:
    if path.is_file():
        facts = path.stat()
        yield path.name, facts.st_size, facts.st_mtime_ns
        return
    for folder, _, names in os.walk(path):
        for name in names:
            full = os.path.join(folder, name)
            try:
                facts = os.stat(full)
            except OSError:
                continue  # ingest names it in its report
            yield full, facts.st_size, facts.st_mtime_ns

"""A plain folder given to a command becomes a store in a cache, once."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from unlabel.data.ingest import FORMAT, ingest
from unlabel.data.sources import fingerprint
from unlabel.data.store import MANIFEST, Store
from unlabel.errors import InputMissing

SHORT_SIDE = 320
"""Shorter side, in pixels, that cached images are shrunk to: enough for crops of 224 pixels."""


def cache_folder() -> Path:
    """Where stores of plain folders are kept: ``$UNLABEL_CACHE`` or ``~/.cache/unlabel``."""
    return Path(os.environ.get("UNLABEL_CACHE", Path.home() / ".cache" / "unlabel"))


def open_or_ingest(sources: Sequence[str | Path], image_size: int | None = None) -> Store:
    """The store at the one path given, or the cached store of plain sources.

    Images of plain sources are stored with a shorter side of at most ``SHORT_SIDE`` pixels, or of
    ``image_size`` where that is more; the verb ``ingest`` keeps them as large as asked. A cached
    store is used again as long as every file's name, size and time of change are the same;
    otherwise the sources are ingested anew beside it. Of several processes one ingests and the
    others wait for it.

    Raises:
        InputMissing: nothing was named, or a named source is not there.
        DataError: the sources hold no image that can be used.
    """
    if not sources:
        raise InputMissing("No images were named. Give a folder: unlabel pretrain photos/")
    if len(sources) == 1 and (Path(sources[0]) / MANIFEST).is_file():
        return Store.open(Path(sources[0]))
    side = max(SHORT_SIDE, image_size or 0)
    made_of = f"{fingerprint(sources)[:12]}-{side}-v{FORMAT}"
    out = cache_folder() / f"{_readable(sources[0], len(sources) > 1)}-{made_of}"
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_name(out.name + ".lock")):
        if not out.exists():
            ingest(sources, out, short_side=side)
    return Store.open(out)


def _readable(source: str | Path, several: bool) -> str:
    """A source's name as part of a folder's; of several files that of the folder they are in."""
    path = Path(source).resolve()
    if several and path.is_file():
        path = path.parent
    name = path.name if path.exists() else str(source)
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:40] or "images"

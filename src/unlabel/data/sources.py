"""Where images come from: folders, files, tar shards, arrays, Hugging Face and torchvision sets.

A source is listed once, in a fixed order, as items that any process can read by itself.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from unlabel.data.arrays import holds_many, list_arrays
from unlabel.data.folders import list_folder
from unlabel.data.items import FileReader, Item, Listing, printable
from unlabel.data.named import list_hub, list_vision
from unlabel.data.shards import list_shard
from unlabel.errors import InputMissing, UsageError

PACKED = frozenset([".gz", ".tgz", ".zip", ".bz2", ".xz", ".zst", ".7z", ".rar"])


def list_sources(sources: Sequence[str | Path], folder_labels: bool = True) -> Listing:
    """List several sources in order; each name then begins with its source.

    Raises:
        InputMissing: a source is not there.
        UsageError: a source is of a kind that is not read.
    """
    if len(sources) == 1:
        return list_source(sources[0], folder_labels)
    items: list[Item] = []
    refused: list[tuple[str, str]] = []
    for source in sources:
        found = list_source(source, folder_labels)
        prefix = printable(str(source)).rstrip("/")
        single = len(found.items) == 1 and Path(source).is_file()
        items += [replace(i, name=prefix if single else f"{prefix}/{i.name}") for i in found.items]
        refused += [(f"{prefix}/{name}", reason) for name, reason in found.refused]
    return Listing(items, refused)


def list_source(source: str | Path, folder_labels: bool = True) -> Listing:
    """List one source.

    Args:
        source: a folder, an image file, a ``.tar`` shard, a ``.npy`` or ``.npz`` file of many
            images, a folder saved by Hugging Face ``datasets``, ``hf:NAME`` or
            ``torchvision:NAME``.
        folder_labels: whether sub-folders are classes.

    Raises:
        InputMissing: the source is not there.
        UsageError: it is a packed archive.
    """
    text = str(source)
    if text.startswith("hf:"):
        return list_hub(text.removeprefix("hf:"))
    if text.startswith("torchvision:"):
        return list_vision(text.removeprefix("torchvision:"))
    path = Path(source)
    if not path.exists():
        raise InputMissing(
            f"There is nothing at {printable(text)}. Check the path; it is read from {Path.cwd()}."
        )
    if path.is_dir():
        if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
            return list_hub(text)
        return list_folder(path, folder_labels)
    suffix = path.suffix.lower()
    if suffix in PACKED:
        raise UsageError(f"{path} is packed. Unpack it, and give the folder or the plain .tar.")
    if suffix == ".tar":
        return list_shard(path)
    if suffix == ".npz" or (suffix == ".npy" and holds_many(path)):
        return list_arrays(path)
    return Listing([Item(printable(path.name), FileReader(str(path)))], [])


def fingerprint(sources: Sequence[str | Path]) -> str:
    """Hash of the sources' files: names, sizes and times of change, never their contents."""
    digest = hashlib.sha256()
    for source in sources:
        path = Path(source).resolve()
        if not path.exists():
            digest.update(f"{source}\0".encode("utf-8", "surrogateescape"))
            continue
        digest.update(os.fsencode(path))
        for name, size, changed in sorted(_files(path)):
            digest.update(os.fsencode(name) + f"\0{size}\0{changed}\0".encode())
    return digest.hexdigest()


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

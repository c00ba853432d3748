"""Folders of image files, and of tar shards: every real file once, links followed with care."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from unlabel.data.items import SPLITS, FileReader, Item, Listing, known_split, printable
from unlabel.data.shards import list_shard

IMAGES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"]
) | {".npy", ".dcm", ".dicom"}
"""Endings of files that are read."""
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


def list_folder(root: Path, folder_labels: bool) -> Listing:
    """List a tree, names in order; hidden files are passed over.

    Classes are the first sub-folders, under the folders of splits where all images stand in such.
    """
    files, refused = _walk(root)
    splits = _split_folders(files)
    items = []
    for name in files:
        suffix = PurePosixPath(name).suffix.lower()
        if suffix == ".tar":
            part = list_shard(root / name)
            shard = printable(name)
            items += [replace(item, name=f"{shard}/{item.name}") for item in part.items]
            refused += [(f"{shard}/{member}", reason) for member, reason in part.refused]
        elif suffix not in IMAGES and (suffix or not _begins_as_image(root / name)):
            kind = f"{suffix} files are not read" if suffix else "by its first bytes"
            refused.append((name, f"not an image: {kind}"))
        else:
            split, label = _place(name, splits)
            reader = FileReader(os.path.join(root, name))
            items.append(Item(printable(name), reader, label if folder_labels else None, split))
    return Listing(items, [(printable(name), printable(reason)) for name, reason in refused])


def _walk(root: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Names of files below ``root``, in order, and what is refused at sight.

    Links wait until everything real is known: what they lead to counts once, under its own name.
    """
    inside = root.resolve()
    files: list[str] = []
    refused: list[tuple[str, str]] = []
    seen: set[tuple[int, int]] = set()
    queue, links = deque([(str(root), "", False)]), deque[tuple[str, str, bool]]()
    while queue or links:
        path, name, link = queue.popleft() if queue else links.popleft()
        try:
            facts = os.stat(path)
            folder = stat.S_ISDIR(facts.st_mode)
            if link and not Path(path).resolve().is_relative_to(inside):
                refused.append((name, "a link that leads out of the folder"))
            elif (facts.st_dev, facts.st_ino) in seen and (link or folder):
                refused.append((name, "a link to what is read already"))
            elif folder:
                for entry in _visible(path):
                    below = (entry.path, f"{name}/{entry.name}" if name else entry.name)
                    (links if entry.is_symlink() else queue).append((*below, entry.is_symlink()))
            elif stat.S_ISREG(facts.st_mode):
                files.append(name)
            else:
                refused.append((name, "unreadable: not a plain file"))
            seen.add((facts.st_dev, facts.st_ino))
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or "a link that leads nowhere"
            refused.append((name or ".", f"unreadable: {reason}"))
    return sorted(files), sorted(refused)


def _visible(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)


def _begins_as_image(path: Path) -> bool:
    """Whether a file without an ending, as content-addressed stores name them, is an image."""
    try:
        with path.open("rb") as file:
            return file.read(8).startswith(_BEGINNINGS)
    except OSError:
        return False


def _split_folders(files: Sequence[str]) -> bool:
    """Whether the top folders of all images are splits, at least two of them."""
    images = [name for name in files if PurePosixPath(name).suffix.lower() in IMAGES | {".tar"}]
    tops = {name.split("/", 1)[0].lower() for name in images if "/" in name}
    return all("/" in name for name in images) and len(tops) > 1 and tops <= set(SPLITS)


def _place(name: str, splits: bool) -> tuple[str, str | None]:
    """Split and class of a file by its folders."""
    *folders, _ = printable(name).split("/")
    split = known_split(folders.pop(0)) if splits and folders else ""
    return split, (folders[0] if folders else None)

"""Where images come from: folders, files, tar shards, arrays, Hugging Face and torchvision sets.

A source is listed once, in a fixed order, as items that any process can read by itself.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from unlabel.data.decode import Refused
from unlabel.errors import InputMissing

IMAGES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".npy",
        ".dcm",
        ".dicom",
        ".mpo",
    ]
)
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""Folder names, in lower case, that are splits and not classes."""
LARGEST_FILE = 2**30
"""Bytes of one image's file, at most."""


class Reader(Protocol):
    """Reads one item: bytes to decode, or pixels as an array."""

    def read(self) -> bytes | np.ndarray:
        """The content.

        Raises:
            Refused: it cannot be read; the message is the reason.
        """


@dataclass(frozen=True)
class Item:
    """One image to be: its name in its source, how to read it, its label and split, if any."""

    name: str
    reader: Reader
    label: str | None = None
    split: str = ""


@dataclass(frozen=True)
class Listing:
    """What a source holds, and what was refused before reading it (name, reason)."""

    items: list[Item]
    refused: list[tuple[str, str]]


def list_source(source: str | Path, folder_labels: bool = True) -> Listing:
    """List one source.

    Args:
        source: a folder, an image file, a ``.tar`` shard, a ``.npy`` or ``.npz`` file of many
            images, a folder saved by Hugging Face ``datasets``, ``hf:NAME`` or
            ``torchvision:NAME``.
        folder_labels: whether sub-folders are classes.

    Raises:
        InputMissing: the source is not there, or what reads it is not installed.
    """
    text = str(source)
    if text.startswith("hf:"):
        return _hugging_face(text.removeprefix("hf:"), None)
    if text.startswith("torchvision:"):
        return _torchvision(text.removeprefix("torchvision:"))
    path = Path(source)
    if not path.exists():
        raise InputMissing(
            f"There is nothing at {path}. Check the path; it is read from {Path.cwd()}."
        )
    if path.is_dir():
        if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
            return _hugging_face(path.name, path)
        return _folder(path, folder_labels)
    if path.suffix == ".tar":
        return _tar(path)
    if path.suffix == ".npz" or (path.suffix == ".npy" and _holds_many(path)):
        return _arrays(path)
    return Listing([Item(path.name, FileReader(str(path)))], [])


@dataclass(frozen=True)
class FileReader:
    """A file of its own."""

    path: str

    def read(self) -> bytes:
        """The file's bytes."""
        try:
            if os.stat(self.path).st_size > LARGEST_FILE:
                raise Refused(f"too large: a file of over {LARGEST_FILE >> 20} MiB")
            with open(self.path, "rb") as file:
                return file.read()
        except OSError as error:
            raise Refused(f"unreadable: {error.strerror}") from None


@dataclass(frozen=True)
class SliceReader:
    """A stretch of a file: a member of a tar shard, read in place and never extracted."""

    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The member's bytes."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise Refused(f"unreadable: {error.strerror}") from None
        if len(data) < self.size:
            raise Refused("truncated: the shard ends within it")
        return data


@dataclass(frozen=True)
class ArrayReader:
    """One image of an array file."""

    path: str
    key: str
    index: int

    def read(self) -> np.ndarray:
        """The image's pixels."""
        return np.asarray(_array(self.path, self.key)[self.index])


@dataclass(frozen=True)
class RowReader:
    """One row of a data set that a library opens by name or path."""

    kind: str
    name: str
    path: str | None
    split: str
    index: int

    def read(self) -> bytes | np.ndarray:
        """The row's image: its bytes where the set keeps them, else its pixels."""
        row = _dataset(self.kind, self.name, self.path, self.split)[self.index]
        if self.kind == "torchvision":
            return _pixels(row[0])
        image = row[_image_column(self.name, self.path, self.split)]
        if isinstance(image, dict):
            if image.get("bytes"):
                return image["bytes"]
            return FileReader(image["path"]).read()
        return _pixels(image)


def _pixels(image: Any) -> np.ndarray:
    """Pixels of a PIL image or an array, losslessly through PNG where a mode needs decoding."""
    if hasattr(image, "convert") and image.mode not in ("RGB", "L"):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        from unlabel.data.decode import decode

        return decode(buffer.getvalue()).pixels
    return np.asarray(image)


def _folder(root: Path, folder_labels: bool) -> Listing:
    """Walk a tree, each real folder once, names in order; links out of the tree are refused."""
    refused: list[tuple[str, str]] = []
    files: list[str] = []
    inside = root.resolve()
    seen: set[tuple[int, int]] = set()
    _walk(str(root), "", inside, seen, files, refused)
    splits = _split_folders(files)
    items = []
    for name in files:
        suffix = PurePosixPath(name).suffix.lower()
        if suffix == ".tar":
            part = _tar(root / name)
            items += [replace(item, name=f"{name}/{item.name}") for item in part.items]
            refused += [(f"{name}/{member}", reason) for member, reason in part.refused]
        elif suffix not in IMAGES:
            refused.append((name, "not an image"))
        else:
            split, label = _place(name, splits)
            reader = FileReader(os.path.join(root, name))
            items.append(Item(name, reader, label if folder_labels else None, split))
    return Listing(items, refused)


def _walk(
    folder: str,
    prefix: str,
    inside: Path,
    seen: set[tuple[int, int]],
    files: list[str],
    refused: list[tuple[str, str]],
) -> None:
    try:
        facts = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        refused.append((prefix or ".", f"unreadable: {error.strerror}"))
        return
    if (facts.st_dev, facts.st_ino) in seen:
        refused.append((prefix, "a link to a folder that was read already"))
        return
    seen.add((facts.st_dev, facts.st_ino))
    for entry in entries:
        if entry.name.startswith("."):
            continue
        name = prefix + entry.name
        if entry.is_symlink() and not _within(entry.path, inside):
            refused.append((name, "a link that leads out of the folder"))
        elif entry.is_dir():
            _walk(entry.path, name + "/", inside, seen, files, refused)
        elif entry.is_file():
            files.append(name)
        else:
            refused.append((name, "unreadable: not a file"))


def _within(path: str, inside: Path) -> bool:
    try:
        return Path(path).resolve(strict=True).is_relative_to(inside)
    except (OSError, RuntimeError):
        return False


def _split_folders(files: Sequence[str]) -> bool:
    """Whether the top folders of all images are splits, at least two of them."""
    tops = {name.split("/", 1)[0].lower() for name in files if "/" in name and _is_image(name)}
    loose = any("/" not in name and _is_image(name) for name in files)
    return not loose and len(tops) > 1 and tops <= set(SPLITS)


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGES


def _place(name: str, splits: bool) -> tuple[str, str | None]:
    """Split and class of an image by its folders."""
    *folders, _ = name.split("/")
    split = SPLITS[folders.pop(0).lower()] if splits else ""
    return split, (folders[0] if folders else None)


def _tar(path: Path) -> Listing:
    """Members of a WebDataset shard: ``KEY.jpg`` with, if they are there, ``KEY.cls`` labels."""
    items: list[Item] = []
    refused: list[tuple[str, str]] = []
    labels: dict[str, str] = {}
    try:
        with tarfile.open(path) as shard:
            for member in shard:
                key, _, extension = member.name.partition(".")
                if not member.isreg():
                    if not member.isdir():
                        refused.append((member.name, "not a plain file in the shard"))
                elif extension.lower() in ("cls", "txt") and member.size < 1000:
                    labels[key] = _text(path, member).strip()
                elif extension.lower() == "json":
                    continue
                elif not _is_image(member.name):
                    refused.append((member.name, "not an image"))
                else:
                    reader = SliceReader(str(path), member.offset_data, member.size)
                    items.append(Item(member.name, reader, label=key))
    except tarfile.TarError as error:
        refused.append((path.name, f"damaged shard: {error}"))
    labelled = [replace(item, label=labels.get(item.label or "")) for item in items]
    return Listing(labelled, refused)


def _text(path: Path, member: tarfile.TarInfo) -> str:
    data = SliceReader(str(path), member.offset_data, member.size).read()
    return data.decode("utf-8", "replace")


@lru_cache(maxsize=8)
def _array(path: str, key: str) -> np.ndarray:
    if key:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[key]
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _holds_many(path: Path) -> bool:
    """Whether a .npy file is a stack of images and not one."""
    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except ValueError:
        return False
    return len(shape) == 4 or (len(shape) == 3 and shape[2] > 16 and shape[0] > 16)


def _arrays(path: Path) -> Listing:
    """Images of a .npy file, or of a .npz file with ``images`` and maybe ``labels``."""
    labels: np.ndarray | None = None
    key = ""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            names = list(arrays)
            key = next((n for n in ("images", "x", "x_train", "data") if n in names), names[0])
            label_key = next((n for n in ("labels", "y", "y_train") if n in names), None)
            labels = arrays[label_key].reshape(-1) if label_key else None
    count = len(_array(str(path), key))
    if labels is not None and len(labels) != count:
        raise InputMissing(
            f"{path} has {count} images and {len(labels)} labels: one each is needed."
        )
    return Listing(
        [
            Item(
                f"{path.stem}/{i:08d}",
                ArrayReader(str(path), key, i),
                None if labels is None else str(labels[i]),
            )
            for i in range(count)
        ],
        [],
    )


@lru_cache(maxsize=8)
def _dataset(kind: str, name: str, path: str | None, split: str) -> Any:
    """A data set by name; each process opens it once."""
    if kind == "torchvision":
        import torchvision

        made = getattr(torchvision.datasets, name)
        if name == "FakeData":
            return made(size=64, image_size=(3, 32, 32))
        root = os.environ.get("UNLABEL_DATA", "data")
        return made(root, train=split == "train", download=True)
    import datasets

    found = datasets.load_from_disk(path) if path else datasets.load_dataset(name)
    part = found[split] if split else found
    column = _image_feature(part)
    return part.cast_column(column, datasets.Image(decode=False))


def _image_feature(part: Any) -> str:
    import datasets

    for name, feature in part.features.items():
        if isinstance(feature, datasets.Image):
            return name
    raise InputMissing(f"None of the columns {', '.join(part.features)} holds images.")


@lru_cache(maxsize=8)
def _image_column(name: str, path: str | None, split: str) -> str:
    return _image_feature(_dataset("hf", name, path, split))


def _hugging_face(name: str, path: Path | None) -> Listing:
    import datasets

    where = str(path) if path else None
    found = datasets.load_from_disk(where) if where else datasets.load_dataset(name)
    splits = list(found) if isinstance(found, datasets.DatasetDict) else [""]
    items = []
    for split in splits:
        part = found[split] if split else found
        labels = _label_names(part)
        known = SPLITS.get(split.lower(), split)
        items += [
            Item(
                f"{split or name}/{i:08d}",
                RowReader("hf", name, where, split, i),
                labels[i] if labels else None,
                known,
            )
            for i in range(len(part))
        ]
    return Listing(items, [])


def _label_names(part: Any) -> list[str] | None:
    """Labels of a Hugging Face set by their names, from its first class column."""
    import datasets

    for column, feature in part.features.items():
        if isinstance(feature, datasets.ClassLabel):
            names = feature.names
            return [names[i] if i is not None and i >= 0 else None for i in part[column]]
    return [str(label) for label in part["label"]] if "label" in part.features else None


def _torchvision(name: str) -> Listing:
    import torchvision

    if not re.fullmatch(r"[A-Za-z0-9]+", name) or not hasattr(torchvision.datasets, name):
        raise InputMissing(f"torchvision has no data set {name!r}.")
    items = []
    for split in ("train",) if name == "FakeData" else ("train", "test"):
        found = _dataset("torchvision", name, None, split)
        classes = getattr(found, "classes", None)
        targets = getattr(found, "targets", None)
        for i in range(len(found)):
            label = None
            if targets is not None:
                label = str(classes[int(targets[i])] if classes else int(targets[i]))
            reader = RowReader("torchvision", name, None, split, i)
            items.append(Item(f"{split}/{i:08d}", reader, label, split))
    return Listing(items, [])

"""Data sets that a library opens: Hugging Face ``datasets``, saved or by name, and torchvision."""

from __future__ import annotations

import inspect
import io
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from unlabel.data.items import FileReader, Item, Listing, known_split
from unlabel.data.pixels import Refused
from unlabel.errors import InputMissing

FAKE_IMAGES = 64
"""Images of ``torchvision:FakeData``, which is noise for trying things out."""


@dataclass(frozen=True)
class HubReader:
    """One row of a Hugging Face set; ``path`` is a folder or a name."""

    path: str
    split: str
    index: int

    def read(self) -> bytes:
        """The image's file, as the set keeps it."""
        part, column = _part(self.path, self.split)
        image = part[self.index][column]
        if image is None:
            raise Refused("no image in this row")
        if image.get("bytes"):
            return image["bytes"]
        return FileReader(image["path"]).read()


@dataclass(frozen=True)
class VisionReader:
    """One image of a torchvision set."""

    name: str
    split: str
    index: int

    def read(self) -> bytes | np.ndarray:
        """The image's pixels, as a PNG where its mode needs converting."""
        try:
            image = _vision(self.name, self.split)[self.index][0]
        except Exception as error:  # each set has its own
            raise Refused(f"unreadable: {error}") from None
        if getattr(image, "mode", "RGB") in ("RGB", "L"):
            return np.asarray(image)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()


def list_hub(path: str) -> Listing:
    """List a set of Hugging Face ``datasets``, saved in a folder or by its name.

    Labels are its first ``ClassLabel`` column, else a column named ``label``.

    Raises:
        InputMissing: it cannot be opened, or has no column of images.
    """
    import datasets

    found = _hub(path)
    splits = list(found) if isinstance(found, datasets.DatasetDict) else [""]
    items = []
    for split in splits:
        part, _ = _part(path, split)
        labels = _labels(part) or [None] * len(part)
        prefix = f"{split}/" if split else ""
        items += [
            Item(f"{prefix}{i:08d}", HubReader(path, split, i), label, known_split(split))
            for i, label in enumerate(labels)
        ]
    return Listing(items, [])


def list_vision(name: str) -> Listing:
    """List a data set of torchvision by its class's name, downloaded to ``$UNLABEL_DATA``.

    Raises:
        InputMissing: torchvision has no such set, or it cannot be had.
    """
    items = []
    for split in _vision_splits(name):
        found = _vision(name, split)
        targets = getattr(found, "targets", getattr(found, "labels", None))
        classes = getattr(found, "classes", None)
        for i in range(len(found)):
            label = None
            if targets is not None:
                label = str(classes[int(targets[i])] if classes else int(targets[i]))
            prefix = f"{split}/" if split else ""
            items.append(Item(f"{prefix}{i:08d}", VisionReader(name, split, i), label, split))
    return Listing(items, [])


@lru_cache(maxsize=8)
def _hub(path: str) -> Any:
    import datasets

    try:
        if os.path.isdir(path):
            return datasets.load_from_disk(path)
        return datasets.load_dataset(path)
    except Exception as error:  # missing, private, offline, or damaged
        raise InputMissing(f"Hugging Face datasets cannot open {path!r}: {error}") from None


@lru_cache(maxsize=8)
def _part(path: str, split: str) -> tuple[Any, str]:
    """One split with its images left as files, and the column that they are in."""
    import datasets

    part = _hub(path)[split] if split else _hub(path)
    for name, feature in part.features.items():
        if isinstance(feature, datasets.Image):
            return part.cast_column(name, datasets.Image(decode=False)), name
    raise InputMissing(
        f"None of the columns {', '.join(part.features)} of {path!r} holds images. "
        "Cast the one that does: set.cast_column(NAME, datasets.Image())."
    )


def _labels(part: Any) -> list[str | None] | None:
    import datasets

    for column, feature in part.features.items():
        if isinstance(feature, datasets.ClassLabel):
            names = feature.names
            return [None if i is None or i < 0 else names[i] for i in part[column]]
    if "label" not in part.features:
        return None
    return [None if value is None else str(value) for value in part["label"]]


@lru_cache(maxsize=8)
def _vision(name: str, split: str) -> Any:
    """A torchvision set; each process opens it once."""
    made = _vision_class(name)
    if name == "FakeData":
        return made(size=FAKE_IMAGES, image_size=(3, 32, 32))
    takes = inspect.signature(made).parameters
    options: dict[str, Any] = {"download": True} if "download" in takes else {}
    if "train" in takes:
        options["train"] = split == "train"
    elif split:
        options["split"] = split
    try:
        return made(os.environ.get("UNLABEL_DATA", "data"), **options)
    except Exception as error:  # no network, no such split, damaged
        raise InputMissing(f"torchvision cannot open {name}: {error}") from None


def _vision_splits(name: str) -> tuple[str, ...]:
    takes = inspect.signature(_vision_class(name)).parameters
    return ("train", "test") if {"train", "split"} & set(takes) else ("",)


def _vision_class(name: str) -> Any:
    import torchvision

    made = getattr(torchvision.datasets, name, None) if name.isalnum() else None
    if not inspect.isclass(made):
        raise InputMissing(f"torchvision has no data set {name!r}.")
    return made

"""The verb ``saliency``: masks of a store's images, as layers beside them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from rich.text import Text

from unlabel.attended import attention
from unlabel.backbones.base import Backbone
from unlabel.backbones.build import LOCAL, build_backbone
from unlabel.config import ModelConfig
from unlabel.data.cache import open_or_ingest
from unlabel.data.layering import write_layer
from unlabel.data.saliency.kinds import HAND_MADE, Kind, felzenszwalb, from_onnx, hand_made
from unlabel.data.saliency.onnx import OnnxSaliency
from unlabel.data.store import Store
from unlabel.errors import InputMissing, UsageError
from unlabel.pretraining import load_backbone
from unlabel.report.saliency_page import write_saliency_page
from unlabel.training.run import Run

KINDS = "background, spectral, attention:RUN_OR_FOLDER or onnx:FILE"


@dataclass(frozen=True)
class Written:
    """What the verb wrote, in a line each."""

    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def __rich__(self) -> Text:
        """The same for a terminal; names are text and never markup."""
        return Text(str(self))


def saliency(
    data: str,
    kind: str | None,
    segments: str | None,
    *,
    preview: bool = False,
    workers: int | None = None,
    overwrite: bool = False,
) -> Written:
    """Add the layers that are asked for to a store, and write the page that shows them.

    Args:
        data: a store, or plain images, which are ingested into a cache first.
        kind: of the foreground; see `find_kinds`.
        segments: likewise.
        preview: whether to write the page.
        workers: processes; one a core when not given.
        overwrite: replace layers that are there.

    Raises:
        UsageError: nothing is asked for.
    """
    kinds = find_kinds(kind, segments)
    if not kinds and not preview:
        raise UsageError(
            f"Say what to make: --kind KIND ({KINDS}), --segments felzenszwalb, or --preview to "
            "see what is there."
        )
    store = open_or_ingest([data])
    lines = write_layers(store, kinds, workers=workers, overwrite=overwrite)
    return Written((*lines, f"Page: {write_saliency_page(store)}") if preview else lines)


def find_kinds(foreground: str | None, segments: str | None) -> dict[str, Kind]:
    """The layers that are asked for, with everything that they need loaded.

    Args:
        foreground: "background", "spectral", "attention:RUN_OR_FOLDER", "onnx:FILE" or ``None``.
        segments: "felzenszwalb" or ``None``.

    Raises:
        UsageError: there is no such kind.
        InputMissing: a run, folder, file or package is not there.
        DataError: a file is not what it should be.
    """
    found = {}
    if foreground is not None:
        found["foreground"] = _foreground(foreground)
    if segments is not None:
        if segments != "felzenszwalb":
            raise UsageError(f"There are no segments of kind {segments!r}; there is felzenszwalb.")
        found["segments"] = felzenszwalb()
    return found


def write_layers(
    store: Store, kinds: dict[str, Kind], *, workers: int | None = None, overwrite: bool = False
) -> tuple[str, ...]:
    """Write a layer of each kind, and tell of each in a line.

    Raises:
        OutputExists: a layer is there and is not to be replaced.
        DataError: no image has a foreground, or the images do not suit the backbone.
        StorageError: the disk is full or failing; what is finished is kept for the next try.
    """
    lines = []
    for name, kind in kinds.items():
        info = write_layer(
            store,
            name,
            kind.name,
            kind.make,
            options=kind.options,
            workers=workers if kind.parallel else 1,
            overwrite=overwrite,
        )
        none = f"; {info.empty:,} have none and stay whole" if info.empty else ""
        lines.append(f"{name.capitalize()} of {info.images:,} images by {kind.name}{none}.")
    return tuple(lines)


def write_layers_of_new(path: Path, kinds: dict[str, Kind], workers: int | None) -> tuple[str, ...]:
    """`write_layers` for a store that was just ingested, which stays if this is interrupted."""
    try:
        return write_layers(Store.open(path), kinds, workers=workers)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"Interrupted. {path} holds all images; go on with its masks alone: "
            f"unlabel saliency {path} --kind KIND (or --segments felzenszwalb)"
        ) from None


def _foreground(text: str) -> Kind:
    name, _, source = text.partition(":")
    if name == "onnx" and source:
        path = Path(source)
        network = OnnxSaliency.load(path)
        with path.open("rb") as file:
            return from_onnx(network, path.name, hashlib.file_digest(file, "sha256").hexdigest())
    if name == "attention" and source:
        return attention(_backbone(Path(source)), Path(source).name)
    if name in HAND_MADE and not source:
        return hand_made(name)
    near = get_close_matches(name, HAND_MADE, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise UsageError(f"There is no saliency of kind {text!r}.{hint} There are: {KINDS}.")


def _backbone(path: Path) -> Backbone:
    """That of a run, or of an exported folder."""
    if (path / "config.yaml").is_file():
        return load_backbone(Run.open(path))
    if (path / "config.json").is_file():
        return build_backbone(ModelConfig(name=f"{LOCAL}{path}")).eval()
    raise InputMissing(f"{path} is neither a run nor a backbone that unlabel export wrote.")

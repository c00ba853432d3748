"""The page of a store's layers: images, masks, and what is left without the background."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from unlabel.atomic import write_text_atomic
from unlabel.data.layers import MAKE, PAGE, Layer
from unlabel.data.saliency.pixels import small_rgb
from unlabel.data.store import Store
from unlabel.errors import DataError
from unlabel.report.text import flatten, plain

HERE = Path(__file__).parent
SHOWN = 24
"""Images on the page."""
SIDE = 192
"""Longer side of their pictures in pixels."""


@dataclass(frozen=True)
class Shown:
    """One image of the page: its pictures, each with what it shows, and a remark."""

    name: str
    pictures: list[tuple[str, str]]
    remark: str


def write_saliency_page(store: Store) -> Path:
    """Write the page of a store's layers into its folder, in place of an earlier one.

    Raises:
        DataError: the store has no layers, or one is damaged.
        StorageError: the disk is full or not writable.
    """
    layers = {name: store.layer(name) for name in MAKE if name in store.layers}
    if not layers:
        how = MAKE["foreground"].format(store=store.path)
        raise DataError(f"{store.path} has no masks to show. Make them: {how}")
    _, some = store.holdout(1.0, SHOWN, seed=0)
    names = some.names()
    shown = [_shown(some, index, names[index], layers) for index in range(len(some))]
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, finalize=plain
    )
    text = environment.get_template("saliency.html").render(
        name=store.path.resolve().name,
        images=len(store),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        facts={name: _facts(layer) for name, layer in layers.items()},
        shown=shown,
    )
    write_text_atomic(store.path / PAGE, text)
    return store.path / PAGE


def _facts(layer: Layer) -> dict[str, str]:
    info = layer.info
    return {
        "kind": info.kind,
        "images": f"{info.images:,}",
        "without a mask": f"{info.empty:,} ({info.empty / info.images:.0%})",
        **flatten(info.options),
    }


def _shown(store: Store, index: int, name: str, layers: dict[str, Layer]) -> Shown:
    image = small_rgb(store, index, SIDE)
    pictures = [("image", _embedded(image, ".jpg"))]
    remarks = []
    for layer, masks in layers.items():
        mask = masks.mask(int(store.ids[index]))
        if mask is None:
            remarks.append(f"no {layer}")
            continue
        mask = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        if layer == "foreground":
            kept = np.where(mask[:, :, None] > 0, image, 0)
            pictures += [("foreground", _embedded(mask, ".png"))]
            pictures += [("kept", _embedded(kept, ".jpg"))]
            remarks.append(f"{(mask > 0).mean():.0%} foreground")
        else:
            pictures.append((layer, _embedded(_coloured(mask), ".png")))
            remarks.append(f"{len(np.unique(mask))} segments")
    return Shown(name, pictures, ", ".join(remarks))


def _coloured(ids: np.ndarray) -> np.ndarray:
    """A colour for each id, far from those of its neighbours: uint8 (h, w, 3)."""
    turns = (np.arange(256) * 0.618034) % 1  # the golden ratio keeps hues apart
    hues = np.stack([turns * 180, np.full(256, 140), 255 - np.arange(256) % 3 * 50], axis=1)
    palette = cv2.cvtColor(hues.astype(np.uint8)[None], cv2.COLOR_HSV2RGB)[0]
    return palette[ids]


def _embedded(pixels: np.ndarray, ending: str) -> str:
    """A picture as a data address."""
    turned = np.ascontiguousarray(pixels[:, :, ::-1]) if pixels.ndim == 3 else pixels
    _, data = cv2.imencode(ending, turned)
    kind = "jpeg" if ending == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"

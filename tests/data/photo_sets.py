"""Folders of images to ingest, and all that a store made of them holds."""

from __future__ import annotations

import json
import os

import numpy as np
from PIL import Image

from unlabel.data.store import Store

COLUMNS = ("kind", "height", "width", "label", "hash", "sketch")


def image(seed, height=20, width=24):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height, width, seed=0):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y + 40 * seed) % 256], 2).astype(
        "u1"
    )


def fill(root, count=100, classes=2):
    for i in range(count):
        path = root / f"class {i % classes}" / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image(i)).save(path, compress_level=1)
    (root / "class 0" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    return root


def copies(root):
    root.mkdir()
    for i in range(40):
        blocks = Image.fromarray(image(i, 7, 9)).resize((90, 70), Image.Resampling.BICUBIC)
        blocks.save(root / f"{i:02d}.png")
    Image.open(root / "03.png").save(root / "z exact.bmp")
    Image.open(root / "05.png").save(root / "z near.jpg", quality=92)
    return root


def everything(path):
    """All that a store holds, without its own name."""
    store = Store.open(path)
    values = {name: store.column(name).tolist() for name in COLUMNS}
    values |= {name: store.files.values(name) for name in ("image", "split", "name", "thumbnail")}
    report = json.loads((path / "report.json").read_text())
    del report["store"]
    return values | {"info": store.info, "report": report, "files": sorted(os.listdir(path))}

"""Foreground masks of each kind against those of another: overlap and time an image.

    python benchmarks/saliency.py STORE --reference onnx:u2netp.onnx [--images 60]
        [--kinds background spectral]

The overlap is intersection over union at the masks' size, over the test images (or all) for which
the reference has a mask; a kind without a mask counts as the whole image, as it does in training.
The disc in the middle, as wide as the shorter side, is what needs no looking. One core.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from unlabel.data.saliency.pixels import mask_size
from unlabel.data.store import Store
from unlabel.saliency import find_kinds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--kinds", nargs="+", default=["background", "spectral"])
    parser.add_argument("--images", type=int, default=60)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    store = Store.open(asked.store)
    store = store.split("test") if "test" in store.info.splits else store
    some = store.holdout(1.0, asked.images, seed=0)[1]
    truth, seconds = masks(some, asked.reference)
    print(
        f"{len(some)} images; {asked.reference.rpartition('/')[2]}: {1e3 * seconds:.0f} ms an image"
    )
    discs = [disc(mask_size(size)) for size in some.sizes]
    print(f"{'disc in the middle':<24}{overlaps(discs, truth)}")
    for kind in asked.kinds:
        found, seconds = masks(some, kind)
        line = f"{kind.rpartition('/')[2]:<24}{overlaps(found, truth)}"
        print(f"{line}, {1e3 * seconds:.1f} ms an image")


def masks(store: Store, kind: str) -> tuple[list[np.ndarray | None], float]:
    """Masks of all images, and seconds an image."""
    make = find_kinds(kind, None)["foreground"].make
    started = time.perf_counter()
    found = list(make(store))
    return found, (time.perf_counter() - started) / len(store)


def disc(size: tuple[int, int]) -> np.ndarray:
    height, width = size
    y, x = np.ogrid[:height, :width]
    far = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    return far <= min(height, width) / 2


def overlaps(found: list, truth: list) -> str:
    values = []
    for mask, true in zip(found, truth, strict=True):
        if true is None:
            continue
        true = true > 0
        mask = np.ones_like(true) if mask is None else mask > 0
        values.append((mask & true).sum() / (mask | true).sum())
    return f"mean {np.mean(values):.2f}, median {np.median(values):.2f} of {len(values)}"


if __name__ == "__main__":
    main()

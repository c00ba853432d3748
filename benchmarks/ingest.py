"""How fast images become a store, and how fast a store opens.

Makes 20,000 PNG files of 32 pixels and 300 JPEG files of 2,000 by 1,500 pixels in a temporary
folder, ingests both, and prints images a second, the processes used, and the time until the first
image of the opened store is there.

    python benchmarks/ingest.py [--small 20000] [--large 300] [--workers N]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from unlabel.data.ingest import ingest
from unlabel.data.store import Store


def make_small(root: Path, count: int) -> None:
    """PNG files of 32 pixels in 10 folders."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    for i, block in enumerate(pixels):
        folder = root / f"class {i % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{i:06d}.png"), cv2.resize(block, (32, 32)))


def make_large(root: Path, count: int) -> None:
    """JPEG files of 2,000 by 1,500 pixels, of soft colours with some noise."""
    random = np.random.default_rng(1)
    root.mkdir(parents=True)
    noise = random.normal(0, 6, (1500, 2000, 3))
    for i in range(count):
        soft = cv2.resize(random.uniform(20, 235, (12, 16, 3)), (2000, 1500))
        image = np.clip(soft + noise, 0, 255).astype(np.uint8)
        (root / f"{i:04d}.jpg").write_bytes(simplejpeg.encode_jpeg(image, quality=90))


def measure(name: str, source: Path, out: Path, short_side: int | None, workers: int) -> None:
    """Ingest one folder and open the store; print one row of the table."""
    start = time.perf_counter()
    report = ingest([source], out, short_side=short_side, workers=workers, progress=False)
    took = time.perf_counter() - start
    start = time.perf_counter()
    store = Store.open(out)
    store.image(0)
    opened = time.perf_counter() - start
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    rate = report.images / took
    print(f"| {name} | {report.images:,} | {took:.1f} | {rate:,.0f} | {size:,.0f} | {opened:.2f} |")


def main() -> None:
    """Make the images, ingest them, and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", type=int, default=20_000)
    parser.add_argument("--large", type=int, default=300)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_small(root / "small", options.small)
        make_large(root / "large", options.large)
        print(f"{options.workers} processes\n")
        print("| files | images | seconds | images/s | store, MB | open, s |")
        print("|---|---|---|---|---|---|")
        rows = [("PNG, 32 px", "small", None), ("JPEG, 2000 x 1500 px, kept", "large", None)]
        rows.append(("the same, --short-side 320", "large", 320))
        for number, (name, source, short_side) in enumerate(rows):
            measure(name, root / source, root / f"store{number}", short_side, options.workers)


if __name__ == "__main__":
    main()

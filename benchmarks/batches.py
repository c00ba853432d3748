"""Two-view colour batches from JPEG files of 500 pixels: ours beside torchvision's.

    python benchmarks/batches.py [--images 600] [--workers 2] [--threads 1] [--turns 3]

The recipe is the pair of views of BYOL and SimCLR: crop to 224, flip, jitter, grey, blur, solarise,
normalise. torchvision is ImageFolder with v2 transforms, on PIL images and on tensors; ours reads
a store of the same files, ingested as they are. Both use the same number of workers and the same
threads, take turns in one run, and a speed is the best of the turns. Nothing is asked of an
accelerator. Colours alone are timed by colours.py.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from colours import SIZE, transforms
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from unlabel.data.ingest import ingest
from unlabel.data.loader import stream
from unlabel.data.recipes import RECIPES
from unlabel.data.spec import Crops, ViewSpec
from unlabel.data.store import Store
from unlabel.data.views import Batches

SCALE = (0.08, 1.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FIRST, SECOND = RECIPES["mocov3"].large
SPEC = ViewSpec(
    {
        "first": Crops(SIZE, scale=SCALE, photometric=FIRST),
        "second": Crops(SIZE, scale=SCALE, photometric=SECOND),
    }
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(
        f"{asked.images} JPEG files, batches of {asked.batch}, {asked.workers} workers, "
        f"{asked.threads} threads, torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        write_photos(photos, asked.images)
        ingest([photos], Path(folder) / "store", progress=False)
        store = Store.open(Path(folder) / "store")
        compare(
            "batches, end to end",
            {
                "torchvision, PIL": lambda: theirs(photos, pair(on_tensors=False), asked),
                "torchvision, tensors": lambda: theirs(photos, pair(on_tensors=True), asked),
                "unlabel": lambda: ours(store, asked),
            },
            asked.turns,
        )


def compare(what: str, kinds: dict[str, Callable[[], float]], turns: int) -> None:
    """Let all take turns; print images (pairs of views) a second and ours over each."""
    speeds = [{name: run() for name, run in kinds.items()} for _ in range(turns)]
    best = {name: max(turn[name] for turn in speeds) for name in kinds}
    print(what)
    for name, speed in best.items():
        ratio = "" if name == "unlabel" else f"   ours / theirs {best['unlabel'] / speed:.2f}"
        print(f"  {name:22} {speed:8.1f} images/s{ratio}")


def write_photos(folder: Path, images: int) -> None:
    """JPEG files of 500 by 500 pixels in two classes: windows of photographs, and fine noise."""
    photos = load_sample_images().images
    rng = np.random.default_rng(0)
    for number in range(images):
        photo = photos[number % len(photos)]
        side = int(rng.integers(250, 420))
        top, left = (int(rng.integers(0, full - side)) for full in photo.shape[:2])
        window = cv2.resize(photo[top : top + side, left : left + side], (500, 500))
        grain = rng.normal(0, 4, (500, 500, 1))
        pixels = np.clip(window + grain, 0, 255).astype(np.uint8)
        file = folder / str(number % 2) / f"{number:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])


def pair(on_tensors: bool) -> Callable:
    """One image to two views, as a user of torchvision would write it."""
    crop = [
        v2.RandomResizedCrop(SIZE, SCALE, interpolation=v2.InterpolationMode.BICUBIC),
        v2.RandomHorizontalFlip(),
    ]
    to_tensor, end = (
        [v2.ToImage()],
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)],
    )
    views = [
        v2.Compose(
            to_tensor + crop + transforms(photometric) + end
            if on_tensors
            else crop + transforms(photometric) + to_tensor + end
        )
        for photometric in (FIRST, SECOND)
    ]
    return Views(views)


class Views:
    """Several transforms of one image."""

    def __init__(self, views: list[v2.Compose]) -> None:
        self.views = views

    def __call__(self, image):
        return [view(image) for view in self.views]


def theirs(photos: Path, transform: Callable, asked: argparse.Namespace) -> float:
    loader = DataLoader(
        ImageFolder(photos, transform),
        asked.batch,
        shuffle=True,
        num_workers=asked.workers,
        drop_last=True,
    )
    return paced(iter(loader), asked.batch)


def ours(store: Store, asked: argparse.Namespace) -> float:
    batches = Batches(store, SPEC, seed=0, batch_size=asked.batch)
    steps = len(store) // asked.batch
    return paced(stream(batches, 0, steps, workers=asked.workers, device="cpu"), asked.batch)


def paced(batches, size: int) -> float:
    """Images a second from the first batch's arrival to the last's: without starting workers."""
    next(batches)
    start = time.perf_counter()
    count = sum(1 for _ in batches)
    return count * size / (time.perf_counter() - start)


if __name__ == "__main__":
    main()

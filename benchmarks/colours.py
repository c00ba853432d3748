"""The colour recipes of two views on one core: ours beside torchvision's, image by image.

    python benchmarks/colours.py [--images 64] [--turns 5]

Jitter, grey, blur and solarising, with their random draws, of the same crops of 224 pixels in 8
bits, by SimCLR's recipe and by BYOL's pair (as MoCo v3 has it: its brightness is torchvision's).
torchvision's v2 transforms run on tensors and on PIL images, with the published blur kernel of 23
pixels and, faster, with one of 13, as wide as ours. All take turns; a time is that of the processor
on one thread, the best of the turns, so that other work on the machine disturbs little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_pil_image

from unlabel.data.augment import blur_reach, draw_colours
from unlabel.data.augment_cpu import colour_pixels
from unlabel.data.random import keys
from unlabel.data.recipes import RECIPES
from unlabel.data.spec import Photometric

SIZE, KERNEL = 224, 23
"""Pixels of a crop and of the published blur kernel, a tenth of it."""
WANTED = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    crops = some_crops(asked.images)
    print(f"{asked.images} crops of {SIZE} px, processor's time, torch {torch.__version__}")
    for name in ("simclr", "mocov3"):
        first, *others = RECIPES[name].large
        pair = (first, *(others or [first]))
        report(name, best_times(subjects(crops, pair), asked.turns), asked.images)


def some_crops(images: int) -> np.ndarray:
    """Crops (N, S, S, 3) of 8 bits from two photographs."""
    photos = load_sample_images().images
    room = np.array(photos[0].shape[:2]) - SIZE
    places = np.random.default_rng(0).integers(0, room, (images, 2))
    return np.stack(
        [
            photos[number % len(photos)][top : top + SIZE, left : left + SIZE]
            for number, (top, left) in enumerate(places)
        ]
    )


def subjects(
    crops: np.ndarray, pair: tuple[Photometric, Photometric]
) -> dict[str, Callable[[], object]]:
    """Who makes both views of every crop, by name."""
    tensors = list(torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous())
    pictures = [to_pil_image(tensor) for tensor in tensors]
    small = 2 * blur_reach(pair[0], SIZE) + 1
    return {
        "torchvision, tensors": lambda: theirs(tensors, pair, KERNEL),
        f"torchvision, tensors, kernel {small}": lambda: theirs(tensors, pair, small),
        "torchvision, PIL": lambda: theirs(pictures, pair, KERNEL),
        f"torchvision, PIL, kernel {small}": lambda: theirs(pictures, pair, small),
        "unlabel": lambda: ours(crops, pair),
    }


def theirs(images: list, pair: tuple[Photometric, Photometric], kernel: int) -> None:
    torch.manual_seed(0)
    views = [v2.Compose(transforms(colours, kernel)) for colours in pair]
    for image in images:
        for view in views:
            view(image)


def transforms(colours: Photometric, kernel: int = KERNEL) -> list[v2.Transform]:
    """torchvision's transforms for a colour recipe."""
    jitter = v2.ColorJitter(colours.brightness, colours.contrast, colours.saturation, colours.hue)
    blur = v2.GaussianBlur(kernel, colours.blur_sigma)
    return [
        v2.RandomApply([jitter], colours.jitter_p),
        v2.RandomGrayscale(colours.grey_p),
        v2.RandomApply([blur], colours.blur_p),
        v2.RandomSolarize(128, colours.solarize_p),
    ]


def ours(crops: np.ndarray, pair: tuple[Photometric, Photometric]) -> None:
    ids = np.arange(len(crops))
    for view, colours in enumerate(pair):
        drawn = draw_colours(colours, keys(0, f"colours/{view}", np.zeros_like(ids), ids))
        colour_pixels(crops, drawn, colours)


def best_times(kinds: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Seconds of the processor that each needs, the best of its turns."""
    times = [{name: timed(run) for name, run in kinds.items()} for _ in range(turns)]
    return {name: min(turn[name] for turn in times) for name in kinds}


def timed(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def report(recipe: str, seconds: dict[str, float], images: int) -> None:
    print(f"{recipe}, two views of each image")
    for name, spent in seconds.items():
        ratio = f"  ours is {spent / seconds['unlabel']:5.1f} times as fast"
        note = "" if name == "unlabel" else f"{ratio}  (wanted: {WANTED} or more)"
        print(f"  {name:34} {spent / images * 1e3:7.2f} ms an image{note}")


if __name__ == "__main__":
    main()

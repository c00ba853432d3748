"""SimCLR and DINO from a folder of JPEG files on a processor: ours beside lightly_train's.

    python benchmarks/against_lightly_train.py --peer-python PYTHON [--methods simclr dino]
        [--images 192] [--batch 16] [--folder FOLDER] [--workers 1] [--busy]

ResNet-18 at 224 pixels, 2 crops for SimCLR and 2 large and 6 small ones for DINO, the same files,
batch size, updates and workers. Both run as they come, which is float32 for lightly_train and for
ours bfloat16 where the processor multiplies in it; ours runs at float32 as well. Each run has a
process of its own, one after the other; PYTHON is an interpreter that has lightly-train.

"End to end" is from the start of the process to its end: for ours with reading the folder into a
store, looking at held-out images before and after, the export and the page. "Steady" is from the
first update to the last. On a machine with other work, ``--busy`` counts the processor's time, on
one thread and without workers.

The folder's default is made here: photo-like JPEG files of 500 pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from unlabel.machine import this_machine

WANTED = {"simclr": 2.5, "dino": 2.0}
"""At bfloat16; at the same precision 1.0."""
SIDE = 500
RUN = Path(__file__).with_name("one_run.py")


@dataclass(frozen=True)
class Speed:
    """Images a second."""

    steady: float
    end_to_end: float


def main() -> None:
    asked = parse()
    bf16 = this_machine().bf16
    sides = {
        "lightly_train, float32": (asked.peer_python, "lightly_train", "auto"),
        "unlabel, float32": (sys.executable, "unlabel", "fp32"),
        **({"unlabel, bfloat16": (sys.executable, "unlabel", "auto")} if bf16 else {}),
    }
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        folder = asked.folder or write_photos(scratch / "photos", asked.images)
        print(
            f"ResNet-18, 224 px, {asked.images} images in batches of {asked.batch}, "
            f"{'one thread' if asked.busy else f'{torch.get_num_threads()} threads'}, "
            f"{asked.workers} workers, torch {torch.__version__}"
        )
        read_once(asked.peer_python, "lightly_train")
        read_once(sys.executable, "unlabel.pretraining")
        for method in asked.methods:
            speeds = {
                name: one_run(*side, method, folder, scratch / f"{method} {name}", asked)
                for name, side in sides.items()
            }
            report(method, speeds)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", required=True, help="an interpreter with lightly-train")
    parser.add_argument("--methods", nargs="+", choices=sorted(WANTED), default=sorted(WANTED))
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--folder", type=Path, help="JPEG files, in place of those made here")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--busy", action="store_true")
    asked = parser.parse_args()
    if asked.folder:
        asked.images = sum(1 for path in asked.folder.rglob("*") if path.is_file())
    if asked.busy:
        asked.workers = 0
    return asked


def write_photos(folder: Path, images: int) -> Path:
    """Photo-like JPEG files: random fields with the spectrum of photographs, and grain."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(images):
        pixels = np.full((SIDE, SIDE, 3), 128, np.float32)
        for octave in range(1, 8):
            field = rng.normal(0, 60 / 1.6**octave, (2 * 2**octave,) * 2 + (3,))
            field += rng.normal(0, 60 / 1.4**octave, (*field.shape[:2], 1))
            pixels += cv2.resize(
                field.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC
            )
        pixels += rng.normal(0, 4, (SIDE, SIDE, 1))
        cv2.imwrite(
            str(folder / f"{number:05}.jpg"),
            pixels.clip(0, 255).astype(np.uint8),
            [cv2.IMWRITE_JPEG_QUALITY, 90],
        )
    return folder


def read_once(python: str, module: str) -> None:
    """Have the system keep the module's files, so that no side is the first to read its own."""
    subprocess.run([python, "-c", f"import {module}"], check=True, capture_output=True)


def one_run(
    python: str,
    side: str,
    precision: str,
    method: str,
    folder: Path,
    scratch: Path,
    asked: argparse.Namespace,
) -> Speed:
    """Pre-train once in a new process with caches of its own."""
    steps = asked.images // asked.batch
    values = (asked.batch, steps, asked.workers, precision, "busy" if asked.busy else "wall")
    command = [python, RUN, side, method, folder, scratch / "run", *values]
    scratch.mkdir()
    said, told = scratch / "stdout", scratch / "stderr"
    start = spent(asked.busy)
    with said.open("w") as out, told.open("w") as err:  # pipes would wait for servers as well
        done = subprocess.run(
            [str(part) for part in command],
            env=environment(scratch, asked.busy),
            stdout=out,
            stderr=err,
            check=False,
        )
    seconds = spent(asked.busy) - start
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{said.read_text()}{told.read_text()}")
    times = json.loads([line for line in said.read_text().splitlines() if line[:1] == "["][-1])
    if len(times) != steps:
        raise SystemExit(f"{side} made {len(times)} updates of {steps}")
    steady = (steps - 1) * asked.batch / (times[-1] - times[0])
    return Speed(steady, steps * asked.batch / seconds)


def spent(busy: bool) -> float:
    """Seconds on the wall, or of the processor by processes that this one waited for."""
    if not busy:
        return time.perf_counter()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def environment(scratch: Path, busy: bool) -> Mapping[str, str]:
    """Nothing cached before, no accelerator, nothing reported to anybody."""
    own = {
        "UNLABEL_CACHE": str(scratch / "cache"),
        "LIGHTLY_TRAIN_CACHE_DIR": str(scratch / "cache"),
        "LIGHTLY_TRAIN_EVENTS_DISABLED": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return {**os.environ, **own, **({"OMP_NUM_THREADS": "1"} if busy else {})}


def report(method: str, speeds: Mapping[str, Speed]) -> None:
    theirs = next(iter(speeds.values()))
    print(f"{method}: images a second")
    for name, speed in speeds.items():
        line = f"  {name:24} steady {speed.steady:6.2f}   end to end {speed.end_to_end:6.2f}"
        if speed is not theirs:
            wanted = WANTED[method] if "bfloat16" in name else 1.0
            ratios = (speed.steady / theirs.steady, speed.end_to_end / theirs.end_to_end)
            line += "   ours / theirs {:5.2f} {:5.2f}".format(*ratios)
            line += f"  (wanted: {wanted} or more)"
        print(line, flush=True)


if __name__ == "__main__":
    main()

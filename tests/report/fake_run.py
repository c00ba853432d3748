"""A made-up run's folder with everything that a page can show; its figures mean nothing."""

from __future__ import annotations

import json
import math
import sys
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import yaml

from unlabel.evaluation.results import Result, Results

STEPS = 1560
ACCURACY = {
    "pre-trained with splitmask": (0.62, 0.0, 0.98),
    "labels only": (0.30, -0.03, 0.97),
    "untrained": (0.41, -0.06, 0.88),
    "raw pixels": (0.48, -0.02, 0.94),
}

DETAILS: dict[str, dict] = {
    "knn": {"k": 20, "temperature": 0.07},
    "linear": {"c": 1.0},
    "finetune": {"epochs": 50, "lr": 0.001},
}


def write_fake_run(folder: Path, steps: int = STEPS, images: int = 1000) -> Path:
    """Fill ``folder`` as a finished run does."""
    folder.mkdir(parents=True)
    (folder / "export").mkdir()
    config = {
        "data": "stores/digits",
        "method": "splitmask",
        "options": {"vocabulary": 512, "split": "block"},
        "model": {"name": "vit_nano", "image_size": 28, "patch_size": 4, "weights": None},
        "optim": {"optimizer": "adamw", "lr": 0.0015, "betas": [0.9, 0.95], "schedule": "cosine"},
        "steps": steps,
        "batch_size": 128,
        "seed": 0,
        "precision": "auto",
        "compile": False,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    facts = {
        "reasons": {
            "method": "splitmask: learns from few images, needs no labels",
            "model.name": "vit_nano: small images on a processor: 0.8 M parameters",
            "model.image_size": "28: the images' shorter side is 28 px, kept whole",
            "model.patch_size": "4: 7 x 7 patches",
            "batch_size": "128: sized for a cpu",
            "steps": f"{steps:,} (50 epochs): what a processor does in about an hour",
        },
        "environment": {
            "processor": "x86_64",
            "threads": 2,
            "device": "cpu",
            "versions": {"unlabel": "0.1.0", "torch": "2.14.1", "timm": "1.0.31"},
        },
        "data": {
            "name": "digits",
            "images": 4000,
            "held_out": 200,
            "classes": 10,
            "fingerprint": "3f1c9a",
        },
        "model": {"parameters": 812544, "dim": 128},
    }
    write_json(folder / "run.json", facts)
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, metrics(steps))) + "\n")
    verdict = {
        "state": "improving",
        "headline": "Still improving: the run was shorter than it could have been.",
        "why": [
            "The last quarter of the run brought 11% of the whole gain.",
            "Held-out loss went from 8.9312 to 5.4120 (lowest 5.4120).",
            "RankMe went from 9.4 to 38.2.",
        ],
        "next": [f"Train longer on the same images: --steps {2 * steps}."],
    }
    write_json(folder / "verdict.json", verdict)
    results(images).save(folder / "results.json")
    write_previews(folder / "previews")
    return folder


def metrics(steps: int) -> list[dict]:
    """Rows of a run whose losses fall and whose features spread."""
    random = np.random.default_rng(0)
    rows = []
    for step in range(steps):
        done = step / steps
        loss = 5.3 + 3.6 * math.exp(-4 * done) + 0.12 * random.standard_normal()
        rows.append(
            {
                "kind": "train",
                "step": step,
                "loss": loss,
                "lr": 1.5e-3 * min(done / 0.05, (1 + math.cos(math.pi * done)) / 2),
                "images_per_second": 0.0 if step == 0 else 480 + 12 * random.standard_normal(),
                "grad_norm": 1.4 + 0.2 * random.standard_normal(),
                "inpaint": loss * 0.7,
                "match": loss * 0.3,
            }
        )
        if step % max(1, steps // 20) == 0:
            rows.append(
                {
                    "kind": "monitor",
                    "step": step,
                    "held_out_loss": 5.41 + 3.5 * math.exp(-4 * done),
                    "rankme": 9.4 + 29 * done,
                    "feature_std": 0.3 + 0.4 * done,
                    "knn": 0.4 + 0.2 * (1 - math.exp(-3 * done)),
                }
            )
    return rows


def results(images: int) -> Results:
    """Results of four subjects, by three protocols, at four numbers of labels."""
    random = np.random.default_rng(0)
    found = Results()
    for (p, protocol), (subject, line) in product(enumerate(DETAILS), ACCURACY.items()):
        if (subject, protocol) in {("raw pixels", "finetune"), ("labels only", "knn")}:
            continue
        low, tilt, high = line
        for labels, count in (("1", 10), ("5", 50), ("20", 200), ("all", 4000)):
            share = (math.log(count / 10) / math.log(400)) ** 0.7
            accuracy = min(0.995, low + (high - low) * share + (p - 1) * (0.02 + tilt))
            correct = random.random((1 if labels == "all" else 5, images)) < accuracy
            details = DETAILS[protocol]
            found.add(
                Result.of(
                    subject,
                    protocol,
                    labels,
                    correct,
                    train_images=count,
                    test="9ab3",
                    details=details,
                )
            )
    return found


def write_previews(folder: Path) -> None:
    """Two pictures: stripes as views, and a split in two."""
    folder.mkdir()
    grid = np.arange(64)
    views = (127 + 120 * np.sin(grid[:, None] / 5 + grid[None] / 9)).astype(np.uint8)
    masks = ((grid[:, None] // 8 + grid[None] // 8) % 2 * 160 + 50).astype(np.uint8)
    cv2.imwrite(str(folder / "views.png"), views)
    cv2.imwrite(str(folder / "masks.png"), masks)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


if __name__ == "__main__":
    from unlabel.report.page import write_report

    print(write_report(write_fake_run(Path(sys.argv[1]))))

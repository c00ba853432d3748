"""Every method on the same images, network and number of images seen: one honest table.

    python benchmarks/methods.py STORE --out FOLDER [--model resnet_nano] [--epochs 10]
        [--batch-size 256] [--methods simclr byol ...] [--seeds 1] [--set NAME=VALUE ...]

Each method trains on the store's training split without labels, by the documented rules for the
machine, and is then frozen and measured on the test split: kNN with all labels and a linear probe
with 1 %, 10 % and all of them. Beside them stand the network untrained and, unless
--no-supervised, the same network trained with labels alone for as many images (1 %, 10 % and all
labels; the recipe is that of docs/evaluation.md). Figures are added to FOLDER/table.jsonl as they
come, so that a stopped benchmark goes on with what is missing; the table is printed last.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import yaml
from rich.console import Console

from unlabel.data.store import Store
from unlabel.evaluating import subjects
from unlabel.evaluation.evaluate import evaluate
from unlabel.evaluation.finetune import FinetuneConfig
from unlabel.evaluation.settings import EvaluationConfig
from unlabel.machine import this_machine
from unlabel.methods.registry import methods
from unlabel.pretraining import start_run
from unlabel.training.run import Run

FROZEN = EvaluationConfig(protocols=("knn", "linear"), labels=("1%", "10%", "all"), seeds=3)
COLUMNS = (("knn", "all"), ("linear", "1%"), ("linear", "10%"), ("linear", "all"))
console = Console(width=160)


def main() -> None:
    asked = arguments()
    asked.out.mkdir(parents=True, exist_ok=True)
    table = asked.out / "table.jsonl"
    done = {(row["method"], row["seed"]) for row in read(table)}
    for seed in range(asked.seeds):
        for name in asked.methods:
            if (name, seed) in done:
                continue
            run, seconds = train(asked, name, seed)
            found = subjects(run)
            mine = {name: found[f"pre-trained ({name})"]}
            if ("untrained", seed) not in done:
                mine["untrained"] = found["untrained"]
            for row in measured(asked, run, mine, FROZEN, seed):
                timed = {"seconds": seconds, "images_per_second": speed(run)}
                add(table, row | (timed if row["method"] == name else {}))
                done.add((row["method"], seed))
        if asked.supervised and ("labels only", seed) not in done:
            run = Run.open(asked.out / f"{asked.methods[-1]}-{seed}")
            for row in measured(asked, run, *with_labels(asked, run), seed):
                add(table, row)
                done.add((row["method"], seed))
    show(asked, table)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="resnet_nano")
    parser.add_argument("--image-size", type=int, default=None)
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--batch-size", type=int, default=256)
    views = [name for name, method in methods().items() if "colours" in method.Options.model_fields]
    parser.add_argument("--methods", nargs="+", default=views)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], help="NAME=VALUE for every method")
    parser.add_argument("--no-supervised", dest="supervised", action="store_false")
    return parser.parse_args()


def train(asked: argparse.Namespace, name: str, seed: int) -> tuple[Run, float]:
    """A finished run of the method, and the seconds that it took, monitors included."""
    path = asked.out / f"{name}-{seed}"
    settings = {
        "method": name,
        "model.name": asked.model,
        "model.image_size": asked.image_size,
        "epochs": asked.epochs,
        "batch_size": asked.batch_size,
        "seed": seed,
        "evaluations": 5,
        "trackers": [],
    }
    settings |= {
        key: yaml.safe_load(value) for key, _, value in (s.partition("=") for s in asked.set)
    }
    started = time.perf_counter()
    run = start_run([str(asked.store)], settings, out=path, overwrite=True)
    return run, time.perf_counter() - started


def with_labels(asked: argparse.Namespace, run: Run) -> tuple[dict, EvaluationConfig]:
    """The same network from scratch on labels alone, for as many images as the runs saw."""
    budget = {"steps": run.steps_in_all, "batch_size": run.config.batch_size}
    settings = EvaluationConfig(
        protocols=("finetune",),
        labels=FROZEN.labels,
        seeds=1,
        finetune=FinetuneConfig(**budget),
    )
    return {"labels only": subjects(run)["labels only"]}, settings


def measured(
    asked: argparse.Namespace, run: Run, found: dict, settings: EvaluationConfig, seed: int
) -> list[dict]:
    """One row a subject: accuracies with their intervals, and the run's last monitors."""
    results = evaluate(found, Store.open(asked.store), None, settings, progress=False)
    rows = []
    for name in found:
        figures = {
            f"{r.protocol} {r.labels}": [r.accuracy, r.low, r.high]
            for r in results
            if r.subject == name
        }
        row = {"method": name, "seed": seed, "figures": figures, "model": run.config.model.name}
        if name == run.config.method:
            last = run.metrics("monitor")[-1]
            row |= {"rankme": last["rankme"], "feature_std": last["feature_std"]}
            row |= {"images_seen": run.steps_in_all * run.config.batch_size}
        rows.append(row)
    return rows


def speed(run: Run) -> float:
    """Median images a second over the steps, without the pauses between them."""
    return float(np.median([row["images_per_second"] for row in run.metrics("train")]))


def read(table: Path) -> list[dict]:
    return [json.loads(line) for line in table.read_text().splitlines()] if table.exists() else []


def add(table: Path, row: dict) -> None:
    with table.open("a") as file:
        file.write(json.dumps(row) + "\n")
    console.print(cells(row["method"], [row]), highlight=False)


def cells(name: str, rows: list[dict]) -> str:
    """A line of Markdown: means over seeds, and the widest interval's ends."""
    line = [name, str(len(rows))]
    for protocol, labels in COLUMNS:
        if name == "labels only":
            protocol = "finetune" if protocol == "linear" else "none"
        found = [row["figures"].get(f"{protocol} {labels}") for row in rows]
        if None in found:
            line.append("")
            continue
        mean = np.mean([accuracy for accuracy, *_ in found])
        low, high = min(f[1] for f in found), max(f[2] for f in found)
        line.append(f"{mean:.1%} ({low:.1%} to {high:.1%})")
    for key, form in (
        ("rankme", "{:.0f}"),
        ("seconds", "{:.0f}"),
        ("images_per_second", "{:,.0f}"),
    ):
        values = [row[key] for row in rows if key in row]
        line.append(form.format(np.mean(values)) if values else "")
    return "| " + " | ".join(line) + " |"


def show(asked: argparse.Namespace, table: Path) -> None:
    machine, rows = this_machine(), read(table)
    names = sorted(
        {r["method"] for r in rows}, key=lambda n: -rank([r for r in rows if r["method"] == n])
    )
    console.print(
        f"\n{asked.store.name}, {asked.model}, {asked.epochs:g} epochs, batch {asked.batch_size}"
    )
    console.print(f"{machine.accelerator or machine.processor}\n", highlight=False)
    titles = [f"{p} {n}" for p, n in COLUMNS]
    head = ["method", "seeds", *titles, "RankMe", "seconds", "images/s"]
    console.print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|", highlight=False)
    for name in names:
        console.print(cells(name, [r for r in rows if r["method"] == name]), highlight=False)


def rank(rows: list[dict]) -> float:
    """Where a method stands in the table: by its linear probe with all labels."""
    figures = [row["figures"].get("linear all", [-math.inf])[0] for row in rows]
    return float(np.mean(figures))


if __name__ == "__main__":
    main()

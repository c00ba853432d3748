"""A study beside the same runs trained alone: what shared trunks save, what it adds to a run.

    python benchmarks/study.py [--steps 400] [--threads 1] [--busy]

SimMIM with vit_nano on 2,000 random images of 32 pixels, batches of 64, no workers; lengths of a
quarter, a half and the whole of --steps. "alone" is each run by itself, from making its folder to
its verdict; "study" is the same in a study, from an empty folder to its table. What a study adds is
what it does besides making and training runs; the figures that it takes of each (LiDAR, alpha-ReQ,
operations) are told apart. With --busy, the time that the processor was busy with this process, for
machines that have other work.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unlabel.data.ingest import ingest
from unlabel.data.store import Store
from unlabel.machine import this_machine
from unlabel.pretraining import facts_of
from unlabel.rules import Choice
from unlabel.study import runner
from unlabel.study.folder import Study
from unlabel.study.grid import make_plan
from unlabel.study.plan import StudyConfig
from unlabel.training.loop import train
from unlabel.training.run import Run

SETTINGS = {"batch_size": 64, "workers": 0, "optim.schedule": "step"}
Clock = Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--busy", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    clock = time.process_time if asked.busy else time.perf_counter
    steps = asked.steps
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = make_store(root)
        for warm in (train_alone, carry_out):
            warm(study_of(root / warm.__name__, store, [10]), clock)
        three = [steps // 4, steps // 2, steps]
        alone = train_alone(study_of(root / "alone", store, three), clock)
        shared = carry_out(study_of(root / "shared", store, three), clock)
    report(alone, shared)


def report(alone: list[float], shared: Counter[str]) -> None:
    figures = shared["row_of"]
    within = shared.total() - figures
    print(f"three lengths alone {sum(alone):.1f} s, in a study {within:.1f} s: ", end="")
    print(f"{within / sum(alone):.2f} of the time (wanted: at most 0.70)")
    added = shared["besides"]
    print(f"a study adds {added:.2f} s to its runs: ", end="")
    print(f"{100 * added / (within - added):.1f} % (wanted: below 3 %)")
    print(f"the figures of its {len(alone)} runs take {figures:.2f} s")


def make_store(root: Path) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (2000, 32, 32, 3), dtype=np.uint8)
    np.save(root / "images.npy", images)
    ingest([root / "images.npy"], root / "store", progress=False, workers=1)
    return root / "store"


def study_of(folder: Path, store: Path, lengths: list[int]) -> Study:
    asked = StudyConfig(
        data=store,
        models=("vit_nano",),
        fractions=(1.0,),
        lengths=tuple(lengths),
        settings=SETTINGS,
    )
    plan, rows = make_plan(asked, Store.open(store), this_machine(), folder)
    return Study.create(folder, plan, rows)


def train_alone(study: Study, clock: Clock) -> list[float]:
    """Seconds of each run of the study, trained by itself, in the order of the plan."""
    times = []
    for planned in study.plan.runs:
        start = clock()
        config = planned.config.model_copy(update={"keep": ()})
        facts = facts_of(Store.open(config.data), Choice(config, {}))
        train(Run.create(study.path / "alone" / planned.name, config, facts))
        times.append(clock() - start)
    return times


def carry_out(study: Study, clock: Clock) -> Counter[str]:
    """Seconds of making, training and measuring the runs, and of what else there is."""
    parts: Counter[str] = Counter()
    own = {name: getattr(runner, name) for name in ("begin", "train", "row_of")}
    for name, function in own.items():
        setattr(runner, name, timed(function, name, parts, clock))
    start = clock()
    runner.carry_out(study, quietly)
    parts["besides"] = clock() - start - parts.total()
    for name, function in own.items():
        setattr(runner, name, function)
    return parts


def timed(function: Callable, name: str, parts: Counter[str], clock: Clock) -> Callable:
    def inner(*given: Any) -> Any:
        start = clock()
        try:
            return function(*given)
        finally:
            parts[name] += clock() - start

    return inner


@contextmanager
def quietly(_: object) -> Iterator[tuple]:
    yield (lambda *_: None), (lambda _: None)


if __name__ == "__main__":
    main()

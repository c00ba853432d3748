"""A study beside the same runs trained alone: what it adds to a run, what shared trunks save.

    python benchmarks/study.py [--steps 400] [--threads 1] [--busy]

SimMIM with vit_nano on 2,000 random images of 32 pixels, batches of 64, no workers; lengths of a
quarter, a half and the whole of --steps. "alone" is each run by itself from start to verdict;
"study" is the same in a study, from an empty folder to its table. Then what a study adds to one run
is timed, its figures (LiDAR, alpha-ReQ, operations) apart. With --busy, the time that the processor
was busy with this process, for machines that have other work.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from unlabel.data.ingest import ingest
from unlabel.data.store import Store
from unlabel.machine import this_machine
from unlabel.study import runner
from unlabel.study.folder import Study
from unlabel.study.grid import make_plan
from unlabel.study.plan import StudyConfig
from unlabel.training.loop import train
from unlabel.training.run import Run

SETTINGS = {"batch_size": 64, "workers": 0, "optim.schedule": "step"}


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
        train_alone(root / "warm", study_of(root / "none", store, [steps // 20]), clock)
        three = [steps // 4, steps // 2, steps]
        alone = train_alone(root / "alone", study_of(root / "plan", store, three), clock)
        shared, _ = carry_out(study_of(root / "three", store, three), clock)
        once, figures = carry_out(study_of(root / "one", store, [steps]), clock)
    report(alone, shared, once, figures)


def report(alone: list[float], shared: float, once: float, figures: float) -> None:
    longest = alone[0]
    print(f"three lengths alone {sum(alone):.1f} s, in a study {shared:.1f} s: ", end="")
    print(f"{shared / sum(alone):.2f} of the time (wanted: at most 0.70)")
    print(f"one run alone {longest:.1f} s, in a study {once - figures:.1f} s: ", end="")
    print(f"{100 * ((once - figures) / longest - 1):+.1f} % (wanted: below 3 %)")
    print(f"its figures besides: {figures:.1f} s, {100 * figures / longest:.1f} %")


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


def train_alone(folder: Path, study: Study, clock: Callable[[], float]) -> list[float]:
    """Seconds of each run of the study, trained by itself, in the order of the plan."""
    times = []
    for planned in study.plan.runs:
        start = clock()
        config = planned.config.model_copy(update={"keep": ()})
        train(Run.create(folder / planned.name, config, {}))
        times.append(clock() - start)
    return times


def carry_out(study: Study, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds of the whole study, and those that its figures took of them."""
    figures = 0.0
    row_of = runner.row_of

    def timed(*given):
        nonlocal figures
        start = clock()
        row = row_of(*given)
        figures += clock() - start
        return row

    @contextmanager
    def quietly(_: object) -> Iterator[tuple]:
        yield (lambda *_: None), (lambda _: None)

    runner.row_of = timed
    start = clock()
    runner.carry_out(study, quietly)
    took = clock() - start
    runner.row_of = row_of
    return took, figures


if __name__ == "__main__":
    main()

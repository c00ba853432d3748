"""Carry out a study's plan, one run after another, from wherever it was stopped."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from unlabel.errors import Diverged, Preempted
from unlabel.study.figures import Judge
from unlabel.study.folder import Study
from unlabel.study.plan import PlannedRun
from unlabel.study.rows import row_of, write_table
from unlabel.study.trunks import begin, drop_branching_points
from unlabel.training.lock import sole_owner
from unlabel.training.loop import Tell, Watch, train
from unlabel.training.signals import StopRequest

Showing = Callable[[PlannedRun], AbstractContextManager[tuple[Watch, Tell]]]
"""Gives what shows a run's progress while it trains."""


def carry_out(study: Study, showing: Showing) -> None:
    """Train and measure every run that has not ended; the table is written after each.

    A run that diverges is recorded with its reason, and the others go on. Any other failure ends
    the study, which can be continued once its cause is mended.

    Raises:
        UsageError: another process works on the study.
        Preempted: a signal asked for an end; everything up to the last step is saved.
        OutOfMemory: a run does not fit the device.
        DataError: images, shares or checkpoints cannot be read.
    """
    with sole_owner(study.path), resumable(study), StopRequest() as stop:
        judge = Judge(study.plan.runs[0].config, study.plan.asked.protocols)
        settle(study)
        for planned in study.left():
            end_if_asked(stop)  # after a run's last step, or while it was measured
            study.record(planned.name, train_and_judge(study, planned, judge, showing))
            settle(study)


def end_if_asked(stop: StopRequest) -> None:
    """Raise what Ctrl-C or another signal means, if one came."""
    if stop.received is not None:
        raise KeyboardInterrupt if stop.received == signal.SIGINT else Preempted


def settle(study: Study) -> None:
    """What follows from the outcomes that there are; done again, it changes nothing."""
    write_table(study)
    drop_branching_points(study)


def train_and_judge(
    study: Study, planned: PlannedRun, judge: Judge, showing: Showing
) -> dict[str, Any]:
    """One run to its end, from wherever it stands: the outcome to record."""
    try:
        run = begin(study, planned)
        with showing(planned) as (watch, tell):
            train(run, watch, tell)
    except Diverged as error:
        return {"state": "failed", "reason": str(error)}
    start = time.perf_counter()
    row = row_of(run, planned, study.plan, judge)
    return {"state": "done", "row": row, "measuring": time.perf_counter() - start}


@contextmanager
def resumable(study: Study) -> Iterator[None]:
    """An end that was asked for says how the study, and not the run in it, goes on."""
    try:
        yield
    except (Preempted, KeyboardInterrupt) as stop:
        raise type(stop)(
            "The study was stopped, and what was trained is saved. "
            f"Continue with: unlabel study --resume {study.path}"
        ) from stop

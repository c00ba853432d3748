"""What a study's folder tells of its progress."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from study_toys import asked, quietly, study_of

from unlabel.report.text import duration
from unlabel.study.folder import Study
from unlabel.study.runner import carry_out
from unlabel.study.status import Status
from unlabel.study.trunks import begin
from unlabel.training.loop import train


@pytest.fixture
def study(tmp_path: Path, shapes_store: Path) -> Study:
    """A trunk of 16 steps and branches of 8 and 4 that share 7 and 3; a step costs a second."""
    return study_of(tmp_path / "study", asked(shapes_store, fractions=[1], lengths=[4, 8, 16]))


def told(status: Status) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(status)
    return console.export_text()


def test_a_study_that_has_not_begun_has_all_its_steps_left(study: Study):
    status = Status.of(study)
    assert (status.runs, status.done, status.begun, status.failed) == (3, 0, {}, {})
    assert status.steps_left == status.steps == 16 + 1 + 1
    assert status.seconds_left == pytest.approx(18)
    assert "0 of 3 runs" in told(status)
    assert f"--resume {study.path}" in told(status)


def test_a_run_that_was_stopped_counts_for_what_it_did(study: Study):
    def stop(done: int, *_: float) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(begin(study, study.plan.runs[0]), stop)
    status = Status.of(study)
    [(done, steps)] = status.begun.values()
    assert (done, steps) == (6, 16)
    assert status.steps_left == 18 - 6


def test_finished_runs_tell_how_long_the_others_take(study: Study):
    trunk = study.plan.runs[0]
    row = {"method": trunk.method, "model": trunk.model, "seconds": 160.0, "steps": 16}
    study.record(trunk.name, {"state": "done", "row": row, "measuring": 3.0})
    status = Status.of(study)
    assert (status.done, status.steps_left) == (1, 2)
    assert status.seconds_left == pytest.approx(20 + 2 * 3)


def test_failures_are_told_with_their_reasons(study: Study):
    for run in study.plan.runs:
        study.record(run.name, {"state": "failed", "reason": f"{run.name} became nan."})
    status = Status.of(study)
    assert status.steps_left == 0
    assert set(status.failed) == {run.name for run in study.plan.runs}
    assert f"{study.plan.runs[1].name} became nan." in told(status)


def test_a_finished_study_names_its_table(study: Study):
    carry_out(study, quietly)
    assert "3 of 3 runs" in told(Status.of(study))
    assert "runs.csv" in told(Status.of(study))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (90, "2 min"), (3599, "1 h 0 min"), (86400 * 3, "3.0 days")],
)
def test_lengths_of_time_are_in_words(seconds: float, text: str):
    assert duration(seconds) == text

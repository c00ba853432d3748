"""A study's folder that was moved, cut short, damaged or met on another machine."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from study_toys import asked, plan_of, quietly, study_of

from unlabel.data.store import Store
from unlabel.errors import ConfigError, DataError, OutputExists, Preempted
from unlabel.study import estimate, runner
from unlabel.study.estimate import measure_cost
from unlabel.study.folder import Study
from unlabel.study.runner import carry_out
from unlabel.study.trunks import begin
from unlabel.training.run import Run
from unlabel.training.signals import StopRequest
from unlabel.training.split import split_store


@pytest.fixture
def study(tmp_path: Path, shapes_store: Path) -> Study:
    return study_of(tmp_path / "study", asked(shapes_store, lengths=[2, 4], fractions=[0.5, 1]))


def test_a_study_that_was_moved_reads_its_own_shares(study: Study, tmp_path: Path):
    first = study.plan.runs[0]
    begin(study, first)
    moved = shutil.move(study.path, tmp_path / "elsewhere")
    study_of(tmp_path / "study", asked(first.config.data, fractions=[0.3, 1]))  # other rows there
    again = Study.open(Path(moved))
    again.refuse_other_rows()
    for planned in again.plan.runs:
        run = begin(again, planned)
        learnt_from, _ = split_store(run.config)
        assert run.config.rows.is_relative_to(again.path)
        assert len(learnt_from) == again.plan.images[planned.fraction]


def test_shares_that_are_gone_or_others_are_refused(study: Study):
    file = study.plan.runs[0].config.rows
    rows = np.load(file)
    np.save(file, rows[1:])
    with pytest.raises(DataError, match=f"has {len(rows) - 1} rows, and the study began with"):
        study.refuse_other_rows()
    file.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        study.refuse_other_rows()


def test_what_can_be_mended_is_no_failure_of_a_run(study: Study, monkeypatch: pytest.MonkeyPatch):
    def unreadable(*_):
        raise DataError("the store cannot be read")

    with monkeypatch.context() as patched:
        patched.setattr(runner, "train", unreadable)
        with pytest.raises(DataError, match="the store cannot be read"):
            carry_out(study, quietly)
    assert len(study.left()) == len(study.plan.runs)
    carry_out(study, quietly)
    assert len(study.rows()) == len(study.plan.runs)


@pytest.mark.parametrize("content", ['{"state": "done", "ro', "[]", '{"state": "done"}', "\xff"])
def test_a_damaged_outcome_is_named(study: Study, content: str):
    study.record(study.plan.runs[0].name, {"state": "failed", "reason": "x"})
    file = next((study.path / "outcomes").iterdir())
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=f"{file} is damaged. Remove it"):
        study.left()


def test_damaged_runs_are_named(study: Study):
    run = begin(study, study.plan.runs[0])
    run.append_metrics([{"kind": "train", "step": 0, "loss": 1.0}])
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind": "tr\xff')
    assert len(run.metrics()) == 1
    (run.path / "config.yaml").write_text("{")
    with pytest.raises(ConfigError, match=r"config.yaml is damaged"):
        Run.open(run.path)


def test_a_study_that_was_killed_while_its_plan_was_written_can_begin(tmp_path: Path):
    (tmp_path / ".unlabel-abcdef").touch()
    (tmp_path / "rows").mkdir()
    Study.check_place(tmp_path)
    (tmp_path / "mine").touch()
    with pytest.raises(OutputExists, match="is no study"):
        Study.check_place(tmp_path)
    with pytest.raises(OutputExists, match="is no folder to write in"):
        Study.check_place(tmp_path / "mine" / "study")


def test_another_number_of_workers_is_no_other_study(study: Study, tmp_path: Path):
    store = study.plan.asked.data
    more = asked(store, {"workers": 3}, lengths=[2, 4], fractions=[0.5, 1], seeds=2)
    plan = plan_of(study.path, more)
    study.check_growth(plan)
    grown = study.grown(plan, {})
    assert [run.config.workers for run in grown.plan.runs] == [0] * 4 + [3] * 4
    other = plan_of(study.path, asked(store, {"optim.lr": 0.5}, lengths=[2, 4], seeds=2))
    with pytest.raises(OutputExists, match="its runs' optim"):
        study.check_growth(other)


def test_a_signal_before_the_run_is_heard_by_it(study: Study, monkeypatch: pytest.MonkeyPatch):
    """As a scheduler's that comes while the network is built."""

    def begin_and_signal(*given):
        run = begin(*given)
        os.kill(os.getpid(), signal.SIGTERM)
        return run

    monkeypatch.setattr(runner, "begin", begin_and_signal)
    with pytest.raises(Preempted, match="what was trained is saved"):
        carry_out(study, quietly)
    assert not study.rows()
    trained = Run.open(study.folder_of(study.plan.runs[0].name)).metrics("train")
    assert len(trained) == 1


def test_requests_to_stop_hear_one_another():
    with StopRequest() as outer:
        os.kill(os.getpid(), signal.SIGTERM)
        with StopRequest() as inner:
            assert inner.received == outer.received == signal.SIGTERM


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Preempted])
def test_a_stop_while_measuring_names_no_run(
    study: Study, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
):
    def stopped(*_):
        raise stop("Continue with: a folder that is gone")

    monkeypatch.setattr(estimate, "train", stopped)
    with pytest.raises(stop, match="nothing was begun"):
        measure_cost(study.plan.runs[0].config)
    assert Store.open(study.plan.asked.data)

"""A study that is stopped anywhere ends as if it had not been, and counts no run twice."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from study_toys import asked, figures, quietly, study_of, weights

from unlabel.errors import Diverged, Preempted, UsageError
from unlabel.study import runner
from unlabel.study.folder import Study
from unlabel.study.rows import row_of
from unlabel.study.runner import carry_out
from unlabel.training.lock import sole_owner


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, shapes_store: Path) -> Study:
    """The toy study of one amount, carried out without a stop."""
    study = study_of(tmp_path_factory.mktemp("whole") / "study", toy(shapes_store))
    carry_out(study, quietly)
    return study


def toy(store: Path):
    return asked(store, fractions=[0.5], lengths=[4, 8])


def test_the_table_has_a_row_a_run(whole: Study):
    rows = whole.rows()
    assert [row["steps"] for row in rows] == [8, 4]
    assert {row["unique_images"] for row in rows} == {41}
    assert [row["samples_seen"] for row in rows] == [64, 32]
    assert [row["epochs"] for row in rows] == pytest.approx([64 / 41, 32 / 41])
    for row in rows:
        assert row["val_loss"] > 0
        assert row["train_loss"] > 0
        assert 0 <= row["knn"] <= 1
        assert row["params_m"] * 1e6 == pytest.approx(row["parameters"])
        assert row["images_per_second"] == pytest.approx(row["samples_seen"] / row["seconds"])
    with (whole.path / "runs.csv").open() as file:
        assert [float(row["val_loss"]) for row in csv.DictReader(file)] == [
            row["val_loss"] for row in rows
        ]
    assert pq.read_table(whole.path / "runs.parquet").to_pylist() == rows


def test_a_finished_study_trains_nothing_more(whole: Study, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runner, "train", lambda *_: pytest.fail("trained again"))
    before = whole.rows()
    carry_out(Study.open(whole.path), quietly)
    assert whole.rows() == before


STOPPED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from contextlib import contextmanager
from pathlib import Path
from unlabel.study import runner, trunks
from unlabel.study.folder import Study

path, *kills = sys.argv[1:]
for at in [*map(int, kills), 0]:
    child = os.fork()
    if child == 0:
        count = 0
        def event(*_):
            global count
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
        def before(function):
            return lambda *given, **named: (event(), function(*given, **named))[1]
        @contextmanager
        def showing(planned):
            yield event, lambda _: None
        for module, names in ((runner, ("row_of", "write_table", "drop_branching_points")),
                              (trunks, ("link_folder", "publish"))):
            for name in names:
                setattr(module, name, before(getattr(module, name)))
        Study.record = before(Study.record)
        runner.carry_out(Study.open(Path(path)), showing)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) == bool(at), status
"""


def test_kill_9_again_and_again_costs_nothing_but_time(
    tmp_path: Path, shapes_store: Path, whole: Study
):
    """In steps of the trunk and of the branch, and before whatever is written between them."""
    kills = ["3", "6", "5", "4", "5", "4", "5", "2", "4", "1", "2", "3", "3", "1", "2"]
    study = study_of(tmp_path / "study", toy(shapes_store))
    subprocess.run([sys.executable, "-c", STOPPED, str(study.path), *kills], check=True)
    assert figures(study) == figures(whole)
    for planned in study.plan.runs:
        assert weights(study.folder_of(planned.name)) == weights(whole.folder_of(planned.name))
    assert len(list((study.path / "outcomes").iterdir())) == len(study.plan.runs)


@pytest.mark.parametrize("at", [3, 8])
@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, Preempted), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_ends_it_with_how_to_go_on(
    tmp_path: Path, shapes_store: Path, whole: Study, number: int, error: type, at: int
):
    """In the middle of the first run, and at its last step: the second does not begin."""
    study = study_of(tmp_path / "study", toy(shapes_store))

    @contextmanager
    def showing(planned):
        yield lambda done, *_: os.kill(os.getpid(), number) if done == at else None, print

    with pytest.raises(error, match=f"unlabel study --resume {study.path}"):
        carry_out(study, showing)
    assert len(study.left()) == (2 if at == 3 else 1)
    carry_out(Study.open(study.path), quietly)
    assert figures(study) == figures(whole)


def test_a_signal_while_a_network_is_measured_ends_the_study_after_it(
    tmp_path: Path, shapes_store: Path, monkeypatch: pytest.MonkeyPatch
):
    study = study_of(tmp_path / "study", toy(shapes_store))

    def row(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return row_of(*args)

    monkeypatch.setattr(runner, "row_of", row)
    with pytest.raises(Preempted, match="what was trained is saved"):
        carry_out(study, quietly)
    assert len(study.rows()) == 1


def test_a_run_that_diverges_is_recorded_and_the_others_go_on(
    tmp_path: Path, shapes_store: Path, monkeypatch: pytest.MonkeyPatch
):
    """The longer one diverges after the shorter has left it."""
    study = study_of(tmp_path / "study", asked(shapes_store, lengths=[4, 8], fractions=[0.5, 1]))
    first = study.plan.runs[0]
    train = runner.train

    def diverging(run, *rest):
        if run.path.name == first.name:
            run.checkpoints.mkdir()
            raise Diverged("loss became nan at step 2")
        return train(run, *rest)

    monkeypatch.setattr(runner, "train", diverging)
    carry_out(study, quietly)
    states = [study.outcome(planned.name)["state"] for planned in study.plan.runs]
    assert states == ["failed", "failed", "done", "done"]
    assert "nan at step 2" in study.outcome(first.name)["reason"]
    assert "failed before step 3" in study.outcome(study.plan.runs[1].name)["reason"]
    assert len(study.rows()) == 2


def test_two_processes_do_not_work_on_one_study(whole: Study):
    with sole_owner(whole.path), pytest.raises(UsageError, match=f"process {os.getpid()}"):
        carry_out(whole, quietly)

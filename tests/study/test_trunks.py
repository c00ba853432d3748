"""A run that branches off a longer one is the same run trained alone, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_toys import asked, lines, quietly, study_of, weights

from unlabel.atomic import TEMPORARY
from unlabel.errors import DataError
from unlabel.study import trunks
from unlabel.study.folder import Study
from unlabel.study.plan import PlannedRun
from unlabel.study.runner import carry_out
from unlabel.study.trunks import begin, drop_branching_points
from unlabel.training import checkpoint
from unlabel.training.loop import train
from unlabel.training.run import Run

KINDS = [
    ({"optim.schedule": "step"}, "simmim"),
    ({"optim.schedule": "constant", "optim.decay": 0.3, "average": 0.9}, "simmim"),
    ({"optim.schedule": "step", "accumulate": 2, "options.vocabulary": 16}, "splitmask"),
    ({"optim.schedule": "constant", "optim.optimizer": "sgd"}, "mae"),
]


@pytest.mark.parametrize(("settings", "method"), KINDS)
def test_a_branch_ends_with_the_bytes_of_the_same_run_alone(
    tmp_path: Path, shapes_store: Path, settings: dict, method: str
):
    config = asked(shapes_store, settings, methods=[method], fractions=[0.5], lengths=[5, 12])
    study = study_of(tmp_path / "study", config)
    carry_out(study, quietly)
    assert study.plan.runs[1].trunk == study.plan.runs[0].name
    for planned in study.plan.runs:
        alone = Run.create(tmp_path / "alone" / planned.name, planned.config, {})
        train(alone)
        branch = study.folder_of(planned.name)
        assert weights(branch) == weights(alone.path)
        ours, theirs = (
            [row for row in lines(path) if row["kind"] == "train"] for path in (branch, alone.path)
        )
        assert ours == theirs
        assert lines(branch)[-1] == lines(alone.path)[-1]  # the last look
        assert Run.open(branch).read_json("verdict.json")["state"]


def trained_trunk(tmp_path: Path, store: Path):
    study = study_of(tmp_path / "study", asked(store, fractions=[1], lengths=[8, 16]))
    trunk, branch = study.plan.runs
    train(begin(study, trunk))
    return study, trunk, branch


def test_a_branch_begins_with_its_trunks_checkpoint_and_figures(tmp_path: Path, shapes_store: Path):
    study, trunk, branch = trained_trunk(tmp_path, shapes_store)
    run = begin(study, branch)
    assert (
        [checkpoint.step_of(path) for path in run.checkpoints.iterdir()] == [branch.shared] == [7]
    )
    theirs = lines(study.folder_of(trunk.name))
    assert lines(run.path) == [row for row in theirs if row["step"] < 7]
    assert begin(study, branch).config == branch.config  # as it is


def test_a_branch_that_was_cut_short_in_its_making_is_made_anew(
    tmp_path: Path, shapes_store: Path, monkeypatch: pytest.MonkeyPatch
):
    study, _, branch = trained_trunk(tmp_path, shapes_store)
    for where in ("link_folder", "publish"):
        with monkeypatch.context() as patch:
            patch.setattr(trunks, where, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                begin(study, branch)
        assert not study.folder_of(branch.name).exists()
    begin(study, branch)
    assert not list((study.path / "runs").glob(f"{TEMPORARY}*"))


def test_where_the_branching_point_is_damaged_a_branch_is_trained_alone(
    tmp_path: Path, shapes_store: Path
):
    study, trunk, branch = trained_trunk(tmp_path, shapes_store)
    point = checkpoint.path_of(study.folder_of(trunk.name) / "checkpoints", branch.shared)
    data = bytearray((point / checkpoint.MODEL).read_bytes())
    data[-1] ^= 1
    (point / checkpoint.MODEL).write_bytes(data)
    run = begin(study, branch)
    assert not run.checkpoints.exists()
    assert run.metrics() == []


def test_a_trunk_that_failed_early_takes_its_branches_along(tmp_path: Path, shapes_store: Path):
    study = study_of(tmp_path / "study", asked(shapes_store, fractions=[1]))
    trunk, branch, _ = study.plan.runs
    begin(study, trunk)
    study.record(trunk.name, {"state": "failed", "reason": "It diverged."})
    with pytest.raises(DataError, match=f"{trunk.name}.* failed before step 7"):
        begin(study, branch)


def test_branching_points_stay_until_all_have_ended(tmp_path: Path, shapes_store: Path):
    study = study_of(tmp_path / "study", asked(shapes_store, fractions=[1], lengths=[5, 9, 16]))
    trunk = study.plan.runs[0]
    folder = train_and_folder(study, trunk)
    for planned in study.plan.runs:
        assert {4, 8} <= steps_of(folder)
        study.record(planned.name, {"state": "failed", "reason": "None."})
        drop_branching_points(study)
    assert steps_of(folder) == {16}


def train_and_folder(study: Study, planned: PlannedRun) -> Path:
    run = begin(study, planned)
    train(run)
    return run.checkpoints


def steps_of(folder: Path) -> set[int]:
    return {checkpoint.step_of(path) for path in folder.glob("step-*")}

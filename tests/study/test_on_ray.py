"""A study on a Ray cluster of this machine is the study that runs one after another."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from study_toys import asked, figures, quietly, study_of, weights

from unlabel.errors import InputMissing
from unlabel.study.on_ray import carry_out_on_ray, train_one
from unlabel.study.runner import carry_out


def test_without_ray_the_message_says_how_to_get_it(
    tmp_path: Path, shapes_store: Path, monkeypatch: pytest.MonkeyPatch
):
    study = study_of(tmp_path / "study", asked(shapes_store))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputMissing, match=r"pip install 'unlabel\[ray\]'"):
        carry_out_on_ray(study, print)


def test_a_task_leaves_its_outcome_and_repeats_nothing(tmp_path: Path, shapes_store: Path):
    study = study_of(tmp_path / "study", asked(shapes_store, fractions=[1], lengths=[4]))
    [planned] = study.plan.runs
    for _ in range(2):
        assert train_one(str(study.path), planned.name, None) == planned.name
    outcome = study.outcome(planned.name)
    assert outcome is not None
    assert outcome["state"] == "done"


@pytest.mark.slow
def test_a_cluster_gives_the_same_table(
    tmp_path: Path, shapes_store: Path, monkeypatch: pytest.MonkeyPatch
):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    studies = [study_of(tmp_path / name, asked(shapes_store, lengths=[4, 8])) for name in "ab"]
    carry_out(studies[0], quietly)
    told: list[str] = []
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        carry_out_on_ray(studies[1], told.append)
    finally:
        ray.shutdown()
    assert len(told) == 4
    assert figures(studies[0]) == figures(studies[1])
    for planned in studies[0].plan.runs:
        ours, theirs = (weights(study.folder_of(planned.name)) for study in studies)
        assert ours == theirs

"""A study on a Ray cluster of this machine is the study that runs one after another."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
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


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two processors of this machine."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.slow
def test_a_cluster_whose_machines_die_gives_the_same_table(
    tmp_path: Path, shapes_store: Path, cluster: None
):
    config = asked(shapes_store, {"evaluations": 10}, fractions=[0.5], lengths=[40, 160])
    ours, theirs = (study_of(tmp_path / name, config) for name in "ab")
    carry_out(theirs, quietly)
    killed: list[int] = []
    trunk = ours.folder_of(ours.plan.runs[0].name)
    killer = threading.Thread(target=kill_at, args=(trunk, (20, 60), killed), daemon=True)
    killer.start()
    told: list[str] = []
    carry_out_on_ray(ours, told.append)
    assert len(killed) == len(told) == 2
    assert figures(ours) == figures(theirs)
    for planned in ours.plan.runs:
        assert weights(ours.folder_of(planned.name)) == weights(theirs.folder_of(planned.name))


def kill_at(folder: Path, updates: tuple[int, ...], killed: list[int]) -> None:
    """Kill whoever trains the run in ``folder`` each time that it has logged so many updates."""
    for update in updates:
        while not logged(folder, update):
            time.sleep(0.02)
        killed.append(int((folder / ".holder").read_text().split()[1]))
        os.kill(killed[-1], signal.SIGKILL)


def logged(folder: Path, update: int) -> bool:
    file = folder / "metrics.jsonl"
    return file.is_file() and f'"step": {update},' in file.read_text()

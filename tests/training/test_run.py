from __future__ import annotations

from pathlib import Path

import pytest

from unlabel.errors import ConfigError, InputMissing, OutputExists
from unlabel.training.run import Run


def test_a_run_opens_as_it_was_created(tmp_path: Path, small_run):
    Run.create(tmp_path / "run", small_run, {"reasons": {"steps": "few"}})
    run = Run.open(tmp_path / "run")
    assert run.config == small_run
    assert run.facts["reasons"] == {"steps": "few"}


def test_nothing_is_overwritten(tmp_path: Path, small_run):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputExists, match="nothing is overwritten"):
        Run.create(tmp_path, small_run, {})
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(InputMissing, match=r"config\.yaml"):
        Run.open(tmp_path)


def test_settings_of_another_version_are_named(tmp_path: Path, small_run):
    run = Run.create(tmp_path / "run", small_run, {})
    with (run.path / "config.yaml").open("a") as file:
        file.write("colour_of_the_sky: blue\n")
    with pytest.raises(ConfigError, match="colour_of_the_sky"):
        Run.open(run.path)


def test_metrics_survive_a_torn_line_and_are_cut_at_the_resumed_step(tmp_path: Path, small_run):
    run = Run.create(tmp_path / "run", small_run, {})
    run.append_metrics({"kind": "train", "step": i, "loss": 1.0} for i in range(6))
    run.append_metrics([{"kind": "monitor", "step": 4}, {"kind": "monitor", "step": 5}])
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    assert len(run.metrics("train")) == 6
    run.truncate_metrics(4)
    assert [row["step"] for row in run.metrics("train")] == [0, 1, 2, 3]
    assert [row["step"] for row in run.metrics("monitor")] == [4]

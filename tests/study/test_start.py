"""The verb from the command line: plan, study, the same again, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from study_toys import SETTINGS

from unlabel.cli import run
from unlabel.errors import ConfigError, InputMissing, OutputExists, UsageError

QUICK = [f"--set={name}={value}" for name, value in SETTINGS.items() if "." in name]
QUICK += ["--set=evaluations=1", "--set=workers=0"]
GRID = ["--models", "vit_nano", "--fractions", "0.5", "1", "--lengths", "2", "6"]


def command(store: Path, out: Path, *more: str) -> list[str]:
    grid = [*GRID, "--batch-size", "8", "--protocols", "knn", "--out", str(out)]
    return ["study", str(store), *grid, *QUICK, *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, shapes_store: Path) -> Path:
    out = tmp_path_factory.mktemp("cli") / "study"
    assert run(command(shapes_store, out)) == 0
    return out


def test_a_study_leaves_its_table_and_every_run(finished: Path):
    table = pd.read_csv(finished / "runs.csv")
    assert sorted(zip(table["fraction"], table["steps"], strict=True)) == [
        (0.5, 2),
        (0.5, 6),
        (1, 2),
        (1, 6),
    ]
    assert table.notna()[["train_loss", "val_loss", "knn", "rankme", "lidar"]].all().all()
    assert pd.read_parquet(finished / "runs.parquet").columns.tolist() == table.columns.tolist()
    assert run(["export", str(next((finished / "runs").iterdir()))]) == 0
    assert "4 of 4 runs have ended" in (finished / "report.html").read_text()


def test_the_same_again_is_the_same(finished: Path, shapes_store: Path, capsys):
    before = (finished / "runs.csv").read_bytes()
    assert run(command(shapes_store, finished)) == 0
    assert run(["study", "--resume", str(finished)]) == 0
    assert (finished / "runs.csv").read_bytes() == before
    for words in (["status", str(finished)], ["--status", str(finished)]):
        assert run(["study", *words]) == 0
        assert "4 of 4 runs" in capsys.readouterr().out
    assert run(["study", "--status", str(finished), "--seeds", "2"]) == 2


def test_a_study_grows_by_runs_that_leave_the_others_as_they_are(
    tmp_path: Path, finished: Path, shapes_store: Path, capsys
):
    shutil.copytree(finished, tmp_path / "study")
    assert run(command(shapes_store, tmp_path / "study", "--seeds", "2")) == 0
    told = capsys.readouterr().err
    assert "4 of the runs have ended." in told
    assert "8 of 8 runs" in told
    before, after = (pd.read_csv(p / "runs.csv") for p in (finished, tmp_path / "study"))
    assert sorted(after["seed"]) == [0] * 4 + [1] * 4
    pd.testing.assert_frame_equal(after[after["seed"] == 0], before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--lengths", "2", "5"], "lengths: 2 6 there, 2 5 here"),
        (["--protocols", "knn", "linear"], "protocols: knn there, knn linear here"),
        (["--fractions", "1"], "fractions: 0.5 1.0 there, 1.0 here"),
        (["--set", "optim.lr=0.5"], "settings"),
    ],
)
def test_another_study_in_its_folder_is_refused(
    finished: Path, shapes_store: Path, capsys, change: list[str], message: str
):
    assert run(changed(command(shapes_store, finished), change)) == OutputExists.exit_code
    assert message in capsys.readouterr().err


def changed(given: list[str], change: list[str]) -> list[str]:
    """The command with another value of an option; a setting that comes later counts."""
    if change[0] in given:
        at = given.index(change[0])
        end = next(i for i in range(at + 1, len(given)) if given[i].startswith("--"))
        given = given[:at] + given[end:]
    return [*given, *change]


def test_a_dry_run_shows_the_plan_and_leaves_nothing(tmp_path: Path, shapes_store: Path, capsys):
    assert run(command(shapes_store, tmp_path / "study", "--dry-run")) == 0
    assert list(tmp_path.iterdir()) == []
    told = capsys.readouterr().err
    for words in ("4 runs", "Steps to compute: 14 (16 without sharing)", "Disk", "vit_nano"):
        assert words in told


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (["--fractions", "0", "1"], ConfigError.exit_code, "fractions"),
        (["--lengths", "6", "2"], ConfigError.exit_code, "increase"),
        (["--models", "vit_nanoo"], ConfigError.exit_code, "vit_nanoo"),
        (["--batch-size", "64"], ConfigError.exit_code, "smallest fraction"),
        (["--seeds", "0"], ConfigError.exit_code, "seeds"),
        (["--set", "options.mask_ratio=2"], ConfigError.exit_code, "mask_ratio"),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_is_made(
    tmp_path: Path, shapes_store: Path, capsys, change: list[str], code: int, message: str
):
    assert run(changed(command(shapes_store, tmp_path / "study"), change)) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_folders_and_options_that_do_not_fit_are_refused(
    tmp_path: Path, shapes_store: Path, capsys
):
    (tmp_path / "mine.txt").touch()
    assert run(command(shapes_store, tmp_path)) == OutputExists.exit_code
    assert run(["study", "--resume", str(tmp_path)]) == InputMissing.exit_code
    assert run(["study", "--resume", "x", "--seeds", "2"]) == UsageError.exit_code
    assert run(["study", *GRID]) == UsageError.exit_code
    assert "Name the images" in capsys.readouterr().err

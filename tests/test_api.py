"""The verbs from Python: paths may be strings, Paths or runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import unlabel
from conftest import small_settings
from unlabel import api, api_study
from unlabel.cli import app
from unlabel.errors import InputMissing


def test_paths_may_be_strings_and_runs_stand_for_their_folders(
    tmp_path: Path, shapes_store: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    settings = {**small_settings(shapes_store), "steps": 1}
    del settings["data"], settings["model"], settings["optim"], settings["options"]
    run = unlabel.pretrain(shapes_store, model="vit_nano", settings=settings, out="run")
    assert unlabel.export("run", out="backbone") == Path("backbone")
    assert unlabel.embed(run, str(shapes_store), out="vectors.parquet").is_file()
    results = unlabel.evaluate(run, data=shapes_store, protocols=("knn",), labels=("all",), seeds=1)
    assert len(results.to_frame()) >= 3
    assert unlabel.report(str(run.path)) == run.path / "report.html"
    assert unlabel.pretrain(resume="run").path == Path("run")
    again = unlabel.pretrain(recipe="run/config.yaml", steps=1, out="again")
    assert again.config == run.config
    assert "optim.lr" not in again.facts["reasons"]
    assert "device" in again.facts["reasons"]


def test_ingest_takes_strings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputMissing, match="nowhere"):
        unlabel.ingest("nowhere", out="store")


def test_nulls_turn_off_what_a_recipe_has(tmp_path: Path, shapes_store: Path):
    """SplitMask's recipe clips the gradient."""
    settings = {"optim.clip_grad": None, "options.vocabulary": 16, "trackers": []}
    run = unlabel.pretrain(
        shapes_store, method="splitmask", steps=1, settings=settings, out=tmp_path / "run"
    )
    assert run.config.optim.clip_grad is None


@pytest.mark.parametrize("verb", unlabel.__all__)
def test_a_verb_stays_a_function_when_the_module_of_its_name_is_imported(verb: str):
    import unlabel.demo
    import unlabel.doctor
    import unlabel.export
    import unlabel.report.page
    import unlabel.study

    home = api_study if verb.startswith("study") else api
    assert getattr(unlabel, verb) is getattr(home, verb)
    assert sys.modules["unlabel.export"].export_backbone


def test_the_list_of_verbs_is_that_of_the_commands():
    names = [name for name in app if not name.startswith("-")]
    names += [f"study_{name}" for name in app["study"] if not name.startswith("-")]
    assert set(unlabel.__all__) == set(names)

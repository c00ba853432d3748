"""The page of a study: everything that its table holds, before, during and after it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from study_toys import asked, study_of

from page_elements import Elements, script_json, short_plotly
from unlabel.cli import run
from unlabel.scaling.charts import length_figures
from unlabel.scaling.findings import Findings
from unlabel.scaling.table import read_runs, write_runs
from unlabel.study.folder import Study
from unlabel.study.page import render

PUBLISHED = Path(__file__).parents[1] / "scaling" / "published_runs.csv"
NAMES = {"S": "vit_nano", "B": "vit_micro", "L": "vit_mini"}


@pytest.fixture(scope="module", autouse=True)
def without_plotly():
    with short_plotly():
        yield


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory, shapes_store: Path) -> Study:
    """A study of three models that has not begun."""
    folder = tmp_path_factory.mktemp("page") / "study"
    return study_of(folder, asked(shapes_store, models=list(NAMES.values())))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, shapes_store: Path) -> Study:
    """The published runs in a study's folder."""
    folder = tmp_path_factory.mktemp("page") / "full"
    study = study_of(folder, asked(shapes_store, models=list(NAMES.values())))
    runs = pd.read_csv(PUBLISHED)
    runs = runs[runs["dataset"] != "in22k"].rename(columns={"imagenet1k_top1": "finetune"})
    models = runs["model"].map(NAMES)
    write_runs(
        runs.assign(model=models, method="simmim", finetune=runs["finetune"] / 100, seconds=3600),
        folder / "runs.csv",
    )
    first, second, *_ = study.plan.runs
    study.record(first.name, {"state": "done", "row": {}, "measuring": 1.0})
    study.record(second.name, {"state": "failed", "reason": "The loss is <b>nan</b>."})
    return study


@pytest.fixture(scope="module")
def parsed(full: Study) -> Elements:
    return Elements(render(full))


def test_a_study_that_has_not_begun(empty: Study):
    seen = Elements(render(empty)).visible
    assert "No run has ended yet." in seen
    assert "0 of 18 runs have ended" in seen


def test_all_of_it_is_there(parsed: Elements):
    for text in (
        "twice the 1,281,167 images would take at most",
        "Doubling the length",
        "vit_mini beats vit_nano after",
        "Error of the loss on runs that were held out",
        "Correlation of losses with downstream figures",
        "36 runs, as in runs.csv",
        "The loss is <b>nan</b>.",
        "unlabel study",
    ):
        assert text in parsed.visible
    figures = script_json(parsed)
    canvases = [a for a in parsed.of("div") if a.get("class") == "canvas"]
    assert {a["id"] for a in canvases} == set(figures)
    assert all(a["aria-label"].strip() for a in canvases)
    # Four amounts of images, three axes of the fit, one downstream figure.
    assert len(figures) == 8
    assert len(parsed.of("table")) == len(parsed.of("caption"))
    assert not [a for tag, a in parsed.found if a.get("src") or a.get("href")]


def test_the_fit_is_drawn_with_its_band_and_its_held_out_points(parsed: Elements):
    figures = script_json(parsed)
    data = next(f["data"] for f in figures.values() if "parameters" in str(f["layout"]))
    bands = [trace for trace in data if trace["meta"].get("band")]
    assert len(bands) == 1
    unseen = [t for t in data if t.get("marker", {}).get("symbol") == "x-thin-open"]
    assert [t["name"] for t in unseen if t["x"]] == ["vit_mini"]
    lower, upper, middle = data[:3]
    assert all(a < b < c for a, b, c in zip(lower["y"], middle["y"], upper["y"], strict=True))


def test_runs_that_overfit_are_hollow():
    runs = read_runs(PUBLISHED)
    findings = Findings.of(runs[runs["source"] == "in1k"])
    least, *_, most = length_figures(findings, {"S": 0, "B": 1, "L": 2})
    assert (least.title, least.latest) == ("128,117 images", "9 of 9 overfit")
    assert all(
        "-open" in mark for trace in least.spec["data"] for mark in trace["marker"]["symbol"]
    )
    assert not any("-open" in m for trace in most.spec["data"] for m in trace["marker"]["symbol"])


def test_the_verb_report_takes_a_study(full: Study, capsys):
    assert run(["report", str(full.path)]) == 0
    assert (full.path / "report.html").is_file()
    assert "report.html" in capsys.readouterr().out

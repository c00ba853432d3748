"""A downstream figure from the loss: the line, its errors, and when nothing is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from unlabel.errors import OutputExists
from unlabel.scaling.downstream import Downstream
from unlabel.scaling.findings import Findings
from unlabel.scaling.fits import fit_table
from unlabel.scaling.table import read_runs, write_runs

PUBLISHED = Path(__file__).parent / "published_runs.csv"
LOSSES = np.linspace(0.3, 0.6, 9)
SLOPED = 90 - 50 * LOSSES


def table(figure: np.ndarray, losses: np.ndarray = LOSSES) -> pd.DataFrame:
    models = np.resize(["s", "b", "l"], len(losses))
    return pd.DataFrame({"model": models, "val_loss": losses, "knn": figure})


def none(runs: pd.DataFrame) -> pd.Series:
    return pd.Series(False, index=runs.index)


def test_a_line_is_found_whatever_the_overfit_runs_do():
    runs = table(SLOPED)
    overfit = none(runs)
    overfit[[1, 5]] = True
    runs.loc[[1, 5], "knn"] = 99.0
    line = Downstream.of(runs, overfit, "knn")
    assert (line.runs, line.why_not()) == (7, None)
    assert line.line == pytest.approx([90, -50])
    assert line.error == pytest.approx(0, abs=1e-9)
    value, low, high = line.predict(np.array([0.2]), np.array([0.19]), np.array([0.21]))
    assert (value, low, high) == (pytest.approx([80]), pytest.approx([79.5]), pytest.approx([80.5]))


def test_errors_are_those_on_models_left_out():
    runs = table(SLOPED + np.random.default_rng(0).normal(0, 1, 9))
    errors, medians = [], []
    for model in "sbl":
        known, out = runs[runs["model"] != model], runs[runs["model"] == model]
        slope, level = np.polyfit(known["val_loss"], known["knn"], 1)
        errors.extend(level + slope * out["val_loss"] - out["knn"])
        medians.extend(known["knn"].median() - out["knn"])
    line = Downstream.of(runs, none(runs), "knn")
    assert line.error == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    assert line.baseline == pytest.approx(np.sqrt(np.mean(np.square(medians))))
    assert line.line[::-1] == pytest.approx(np.polyfit(runs["val_loss"], runs["knn"], 1))


def test_runs_drawn_again_spread_as_the_line_does():
    """Beside the standard error of a line's value, in closed form."""
    rng = np.random.default_rng(1)
    losses = rng.uniform(0.3, 0.6, 200)
    runs = table(90 - 50 * losses + rng.normal(0, 2, 200), losses)
    line = Downstream.of(runs, none(runs), "knn")
    at = np.array([0.8])
    _, low, high = line.predict(at, at, at)
    spread = 2 * np.sqrt(
        1 / 200 + (0.8 - losses.mean()) ** 2 / ((losses - losses.mean()) ** 2).sum()
    )
    width = 1.96 * np.sqrt(spread**2 + line.error**2)
    assert (high - low) / 2 == pytest.approx(width, rel=0.1)


def test_nothing_is_said_without_a_relation_or_with_few_runs():
    runs = table(np.random.default_rng(0).normal(50, 1, 9))
    assert "not a fifth better than by the median" in str(
        Downstream.of(runs, none(runs), "knn").why_not()
    )
    few = table(SLOPED).assign(knn=[*SLOPED[:4], *[np.nan] * 5])
    line = Downstream.of(few, none(few), "knn")
    assert line.why_not() == "knn is known of 4 runs that do not overfit; a line needs 5"


def test_a_share_stays_one():
    runs = table(1.2 - LOSSES)
    line = Downstream.of(runs, none(runs), "knn")
    wide = [np.array([v]) for v in (0.05, 0.01, 0.4)]
    value, _, high = line.predict(*wide)
    assert (value, high) == ([1.0], [1.0])


def test_top_1_of_the_published_runs_follows_from_the_loss(tmp_path: Path):
    """With all 63 runs of the study a model left out is off by 0.40 points."""
    runs = read_runs(PUBLISHED)
    line = Downstream.of(runs, Findings.of(runs).overfit, "imagenet1k_top1")
    assert line.runs == 27
    assert line.error < 0.4
    assert line.baseline > 1
    wanted = runs[(runs["model"] == "L") & (runs["dataset"].isin(["in1k-10", "in1k-100"]))]
    write_runs(wanted.drop(columns=["val_loss"]), tmp_path / "wanted.csv")
    known = runs[runs["model"] != "L"].drop(columns="source")
    write_runs(known, tmp_path / "known.csv")
    out = tmp_path / "predicted.csv"
    told = tmp_path / "found.json"
    wanted_file = tmp_path / "wanted.csv"
    fit_table(tmp_path / "known.csv", to_predict=wanted_file, out=out, json_out=told)
    found = pd.read_csv(out)
    small = found["dataset"] == "in1k-10"
    assert found.loc[small, "imagenet1k_top1_predicted"].isna().all()
    large = found[~small]
    assert large["imagenet1k_top1_predicted"].to_numpy() == pytest.approx(
        large["imagenet1k_top1"].to_numpy(), abs=1.0
    )
    assert (large["imagenet1k_top1_low"] < large["imagenet1k_top1"]).all()
    assert (large["imagenet1k_top1_high"] > large["imagenet1k_top1"]).all()
    kept = json.loads(told.read_text())
    (line,) = kept["downstream"]["any"]
    assert line["b_interval"][0] < line["b"] < line["b_interval"][1] < 0
    assert len(kept["overfit"]) == len(known)
    assert {best["model"] for best in kept["best"]} == {"S", "B"}
    with pytest.raises(OutputExists, match="--json"):
        fit_table(tmp_path / "known.csv", json_out=told)

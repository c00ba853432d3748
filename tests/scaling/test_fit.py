"""Fits find what made a table, and say what 42 published runs say of runs they left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from unlabel.errors import DataError, OutputExists, UsageError
from unlabel.scaling.fit import Fit, rms
from unlabel.scaling.fits import fit_table
from unlabel.scaling.fitted import Scale, fit_form
from unlabel.scaling.forms import FORMS
from unlabel.scaling.predict import beyond, predict
from unlabel.scaling.table import read_runs

PUBLISHED = Path(__file__).parent / "published_runs.csv"
CHINCHILLA = FORMS[0]


def grid(loss, models=(5.0, 20.0, 80.0), images=(1e4, 1e5), samples=(1e6, 4e6, 16e6)):
    """A table of all combinations, whose loss is a function of the row."""
    rows = [
        {"model": f"m{n:g}", "params_m": n, "unique_images": u, "samples_seen": s}
        for n in models
        for u in images
        for s in samples
    ]
    runs = pd.DataFrame(rows).assign(method="m", dataset="d", source="d", seed=0)
    return runs.assign(val_loss=[loss(row) for _, row in runs.iterrows()])


def chinchilla(row: pd.Series) -> float:
    return 0.4 + 0.3 * row["params_m"] ** -0.5 + 40 * row["samples_seen"] ** -0.4


def test_the_parameters_that_made_a_table_are_found():
    runs = grid(chinchilla)
    scale = Scale.of(runs)
    e, _, alpha, _, beta = fit_form(CHINCHILLA, scale, runs).parameters
    assert np.exp(e) * scale.loss == pytest.approx(0.4, rel=1e-3)
    assert (alpha, beta) == pytest.approx((0.5, 0.4), rel=1e-2)


def test_one_wild_run_hardly_moves_a_fit():
    runs = grid(chinchilla)
    runs.loc[3, "val_loss"] *= 1.5
    clean = runs.drop(index=3)
    found = fit_form(CHINCHILLA, Scale.of(runs), runs).log_loss(clean)
    assert rms(found - np.log(clean["val_loss"])) < 2e-3


@pytest.mark.parametrize("factor", [1.02, 0.6, 5.0])
def test_another_source_of_images_may_lie_off(factor: float):
    runs = pd.concat(
        [grid(chinchilla), grid(chinchilla).iloc[:4].assign(source="other")], ignore_index=True
    )
    runs.loc[runs["source"] == "other", "val_loss"] *= factor
    fitted = fit_form(CHINCHILLA, Scale.of(runs), runs)
    assert fitted.parameters[-1] == pytest.approx(np.log(factor), abs=1e-4)


def test_noise_is_not_extended():
    draws = np.random.default_rng(0)
    fit = Fit(grid(lambda row: float(np.exp(draws.normal(0, 0.3)))))
    assert "inside" in fit.refusals
    assert {"model high", "length high"} & set(fit.refusals)
    beyond = grid(chinchilla, models=(300.0,), images=(1e3,), samples=(60e6,))
    found = predict(fit, beyond)
    assert found["val_loss_predicted"].isna().all()
    assert found["val_loss_note"].str.contains("not a fifth better than").all()


def test_far_beyond_the_table_nothing_is_said():
    fit = Fit(grid(chinchilla))
    (row,) = predict(fit, grid(chinchilla, (20.0,), (1e5,), (16e6 * 20,))).itertuples()
    assert np.isnan(row.val_loss_predicted)
    assert "20.0 times beyond" in row.val_loss_note


def test_inside_the_table_the_loss_is_known():
    fit = Fit(grid(chinchilla))
    wanted = grid(chinchilla, (40.0,), (3e4,), (8e6,))
    (row,) = predict(fit, wanted).itertuples()
    assert row.val_loss_predicted == pytest.approx(row.val_loss, rel=2e-3)
    assert row.val_loss_low < row.val_loss < row.val_loss_high


def test_too_few_runs_are_refused():
    with pytest.raises(DataError, match="at least 8"):
        Fit(grid(chinchilla).iloc[:7])


def test_predictions_go_nowhere_unasked(tmp_path: Path):
    with pytest.raises(UsageError, match="both"):
        fit_table(PUBLISHED, to_predict=PUBLISHED)
    (tmp_path / "there.csv").write_text("x")
    with pytest.raises(OutputExists):
        fit_table(PUBLISHED, to_predict=PUBLISHED, out=tmp_path / "there.csv")
    with pytest.raises(UsageError, match="in1k-10"):
        fit_table(PUBLISHED, exclude=["in2k"])


def test_rows_of_the_table_are_named_as_they_were():
    assert set(read_runs(PUBLISHED)["source"]) == {"in1k", "in22k"}


def test_repetitions_of_a_run_are_held_out_together():
    runs = pd.concat([grid(chinchilla).assign(seed=seed) for seed in range(3)], ignore_index=True)
    for part in Fit(runs, forms=(CHINCHILLA,))._folds():
        assert np.array_equal(part[:18], part[18:36])
        assert np.array_equal(part[:18], part[36:])


def test_a_fit_is_plain_data():
    fit = Fit(grid(chinchilla), forms=(CHINCHILLA,))
    found = json.loads(json.dumps(fit.as_dict()))
    (form,) = found["forms"]
    assert form["name"] == "Chinchilla"
    low, high = form["intervals"]["alpha"]
    assert low <= 0.5001
    assert high >= 0.4999
    assert found["errors"] == pytest.approx(fit.errors)


def test_a_corner_that_no_run_has_reached_is_beyond_the_table():
    whole = grid(chinchilla)
    corner = (whole["params_m"] == 80) & (whole["unique_images"] == 1e4)
    fit = Fit(whole[~corner], forms=(CHINCHILLA,))
    (edge,) = beyond(fit, whole[corner].iloc[0])
    assert (edge.axis, edge.end, edge.steps) == ("model", "high", pytest.approx(1))
    assert edge.times == pytest.approx(4)
    assert beyond(fit, whole[~corner].iloc[0]) == []
    (edge,) = beyond(fit, whole.iloc[0].replace({5.0: 2.5}))
    assert (edge.axis, edge.end, edge.steps) == ("model", "low", pytest.approx(0.5))
    long = grid(chinchilla, (20.0,), (5e3,), (32e6,)).iloc[0]
    assert [edge.axis for edge in beyond(fit, long)] == ["length", "data"]


def test_a_part_is_refused_where_a_baseline_knows_as_much():
    """Losses that chance alone decides; and those that depend on the length alone."""
    draws = np.random.default_rng(1)
    images, few = (1e4, 4e4, 16e4), FORMS[:3]
    fit = Fit(grid(lambda row: float(np.exp(draws.normal(0, 0.03))), images=images), forms=few)
    inside = grid(chinchilla, (40.0,), (3e4,), (8e6,))
    assert "inside the table the forms are off by" in predict(fit, inside)["val_loss_note"][0]
    assert "inside" in fit.refusals
    length = Fit(grid(lambda row: 0.4 + 40 * row["samples_seen"] ** -0.4, images=images), forms=few)
    assert length.errors["data high"] < 0.001
    assert not set(length.refusals) & {"inside", "length high"}


def test_the_level_of_a_source_is_nothing_that_the_forms_know_better():
    """Chance alone decides, beside how far two sources lie apart."""
    draws = np.random.default_rng(2)
    noise = [grid(lambda row: float(np.exp(draws.normal(0, 0.03)))) for _ in range(2)]
    noise[1] = noise[1].assign(source="other", val_loss=1.3 * noise[1]["val_loss"])
    fit = Fit(pd.concat(noise), forms=FORMS[:2])
    assert max(fit.baselines["inside"].values()) < 0.06
    assert "inside" in fit.refusals


def test_repetitions_of_nearly_one_length_are_held_out_together():
    runs = pd.concat([grid(chinchilla), grid(chinchilla).assign(seed=1)], ignore_index=True)
    runs.loc[runs["seed"] == 1, "samples_seen"] *= 1.002
    for part in Fit(runs, forms=(CHINCHILLA,))._folds():
        assert np.array_equal(part[:18], part[18:])


def test_runs_of_nearly_one_length_are_of_one_length():
    runs = grid(chinchilla)
    clean = Fit(runs, forms=(CHINCHILLA,))
    runs.loc[17, "samples_seen"] *= 1.002
    fit = Fit(runs, forms=(CHINCHILLA,))
    assert fit.held_out["length high"].tolist() == clean.held_out["length high"].tolist()
    longer = grid(chinchilla, (80.0,), (1e5,), (32e6,))
    (edge,) = beyond(fit, longer.iloc[0])
    assert edge.steps == pytest.approx(0.5)
    one = runs[runs["samples_seen"] > 15e6].reset_index(drop=True)
    more = pd.concat([one, one.assign(params_m=160.0, model="m160")], ignore_index=True)
    why = predict(Fit(more, forms=(CHINCHILLA,)), longer)["val_loss_note"][0]
    assert "the table has one length only" in why


def test_more_sets_of_images_than_runs_can_tell_apart():
    runs = grid(chinchilla).assign(source=[f"s{k % 8}" for k in range(18)])
    with pytest.raises(DataError, match=r"8 sets of images needs at least 14 runs.* there are 13"):
        Fit(runs[:13])
    assert [fitted.form.name for fitted in Fit(runs[:14], forms=FORMS[:2]).forms] == ["Chinchilla"]

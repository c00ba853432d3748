"""Advice that must hold on runs that were taken out of the table before it was given."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from unlabel.cli import run
from unlabel.scaling.advice import Adviser, Section
from unlabel.scaling.budget import Prices, best_options
from unlabel.scaling.findings import Findings
from unlabel.scaling.fit import Fit
from unlabel.scaling.outlook import Outlook, Place
from unlabel.scaling.table import LOSS, read_runs
from unlabel.scaling.teaching import next_run

PUBLISHED = Path(__file__).with_name("published_runs.csv")
PRICE = 1e-6
"""Seconds of an image seen and a million parameters, made up."""


def published() -> pd.DataFrame:
    runs = read_runs(PUBLISHED)
    runs = runs[runs["source"] == "in1k"].reset_index(drop=True)
    return runs.assign(seconds=PRICE * runs["params_m"] * runs["samples_seen"])


def starved() -> pd.DataFrame:
    """Runs whose loss follows the number of images before all else, without overfitting."""
    rows = [
        {"model": f"m{n}", "params_m": n, "unique_images": u, "samples_seen": s}
        for n in (1.0, 3.0, 9.0)
        for u in (1e3, 3e3, 9e3, 27e3)
        for s in (1e5, 2e5, 4e5)
    ]
    runs = pd.DataFrame(rows)
    loss = 0.2 + 3.0 * runs["unique_images"] ** -0.35 + 0.02 * runs["params_m"] ** -0.3
    noise = np.random.default_rng(0).normal(0, 1e-3, len(runs))
    filled = runs.assign(val_loss=loss * np.exp(noise), method="any", dataset="x", seed=0)
    filled["target_moves"] = False
    return filled.assign(source="x", seconds=1.0)


@pytest.fixture(scope="module")
def adviser() -> Adviser:
    return Adviser(published())


@pytest.fixture(scope="module")
def outlook(adviser: Adviser) -> Outlook:
    assert adviser.outlook is not None
    return adviser.outlook


@pytest.fixture(scope="module")
def shorter() -> Outlook:
    runs = published()
    return Outlook(Fit(runs[runs["samples_seen"] < 1e9].reset_index(drop=True)))


def truth(runs: pd.DataFrame, model: str, dataset: str, samples: float) -> float:
    chosen = (runs["model"] == model) & (runs["dataset"] == dataset)
    return float(runs.loc[chosen & (runs["samples_seen"] == samples), LOSS].iloc[0])


@pytest.mark.parametrize("model", ["S", "B", "L"])
@pytest.mark.parametrize("dataset", ["in1k-50", "in1k-100"])
def test_what_longer_training_brings_is_foretold(shorter: Outlook, model: str, dataset: str):
    runs = published()
    row = runs[(runs["model"] == model) & (runs["dataset"] == dataset)].iloc[0]
    before = Place(model, row["params_m"], row["unique_images"], 512e6)
    gain = shorter.gain(before, before.longer())
    true = 1 - truth(runs, model, dataset, 1024e6) / truth(runs, model, dataset, 512e6)
    assert gain.low < true < gain.high
    assert gain.middle == pytest.approx(true, abs=0.005)
    assert gain.high - gain.low < 0.1


def test_enough_images_are_called_enough(adviser: Adviser):
    text = told(adviser.sections())
    assert text.count(", yes: twice the 1,281,167 images would take at most") == 3
    assert "Doubling the images (" in text
    assert "which may be nothing" in text
    assert "0.4507, by L after 1,024,000,000 images seen" in text
    assert "2 times the images took 0.5 % away" in text
    rows = adviser.runs[~Findings.of(adviser.runs).overfit]
    slope = np.polyfit(rows[LOSS], rows["imagenet1k_top1"], 1)[0]
    _, points = text.split("For imagenet1k_top1, doubling the model would be about ")
    gain = re.search(r"Doubling the model .*?: ([\d.]+) %", text)
    assert gain is not None
    assert float(points.split()[0]) == pytest.approx(
        -slope * 0.4507 * float(gain[1]) / 100, abs=0.1
    )


def test_too_few_images_are_called_too_few():
    adviser = Adviser(starved())
    text = told(adviser.sections())
    assert text.count(", no: twice the 27,000 images would take") == 3
    assert "Doubling the images brings most." in text
    outlook = adviser.outlook
    assert outlook is not None
    before = Place("m9.0", 9.0, 27e3, 4e5)
    true = 1 - (0.2 + 3 * 54e3**-0.35 + 0.02 * 9**-0.3) / (0.2 + 3 * 27e3**-0.35 + 0.02 * 9**-0.3)
    gain = outlook.gain(before, before.more_images())
    assert gain.low < true < gain.high


def test_a_loss_that_need_not_tell_is_called_so():
    caution = "a lower one need not mean better features"
    assert caution in told(Adviser(published().assign(target_moves=True)).sections())
    assert caution not in told(Adviser(published()).sections())


def test_a_few_runs_are_not_extended():
    text = told(Adviser(published().iloc[:6]).sections())
    assert "A fit needs at least 8 runs; there are 6." in text
    assert "the lowest loss is" in text
    assert "Doubling" not in text


def test_hours_are_kept_where_they_bring_nothing(adviser: Adviser):
    hours = 1.01 * PRICE * 48.96 * 256e6 / 3600  # of the shortest run of the smallest model
    text = told(adviser.sections(hours=hours))
    assert "Train S for 25" in text
    assert "keep the hours" in text


def test_a_fit_that_knows_no_more_than_the_nearest_run_is_silent():
    """Nine runs on 10 % of the images, where every model overfits."""
    runs = published()
    few = runs[runs["dataset"] == "in1k-10"].reset_index(drop=True)
    text = told(Adviser(few).sections(hours=100))
    assert "by S after 256,000,000 images seen" in text
    assert "The fit says nothing of the runs that they buy: inside the table the forms" in text
    assert "the table has one number of images only" in text


def test_runs_that_hardly_differ_are_told_how_to_differ():
    """Losses of chance alone: each reason is given once, and what would help."""
    runs = published()
    runs["val_loss"] = np.random.default_rng(0).normal(0.4, 0.001, len(runs))
    text = told(Adviser(runs).sections())
    assert text.count("nothing is said, because") == 1
    assert "Doubling the images or the model or the length" in text
    spread = 100 * (runs["val_loss"].max() / runs["val_loss"].min() - 1)
    assert f"the highest loss is {spread:.1f} % above the lowest" in text


def test_other_numbers_of_images(adviser: Adviser):
    assert "With 3,000,000 images" in (text := told(adviser.sections(images=3_000_000)))
    assert "Against the same on 1,281,167 images" in text
    assert "twice the 3,000,000 images" in text
    assert "Nothing can be said: " in told(adviser.sections(images=100_000_000))


def test_a_gain_is_refused_where_a_loss_is(outlook: Outlook):
    before = Place("L", 195.2, 1281167.0, 1024e6)
    gain = outlook.gain(before, before.longer(16))
    assert "16.0 times beyond" in gain.why_not
    assert np.isnan([gain.middle, gain.low, gain.high]).all()


def test_prices_follow_the_table(outlook: Outlook):
    prices = Prices(outlook.fit.runs)
    place = Place("B", 86.89, 1281167.0, 512e6)
    assert prices.hours(place) == pytest.approx(PRICE * 86.89 * 512e6 / 3600)
    assert prices.hours(place.larger()) == pytest.approx(2 * prices.hours(place), rel=0.01)


def test_options_are_within_the_budget_and_the_best_comes_first(adviser: Adviser, outlook: Outlook):
    models = [Place("S", 48.96, 1281167.0, 1.0), Place("L", 195.2, 1281167.0, 1.0)]
    prices = Prices(outlook.fit.runs)
    hours = 1.01 * prices.hours(models[1]._replace(samples=256e6))
    small, large = best_options(outlook, models, prices, hours)
    assert {small.place.model, large.place.model} == {"S", "L"}
    assert small.loss <= large.loss
    assert all(option.hours <= hours * (1 + 1e-9) for option in (small, large))
    assert best_options(outlook, models, prices, hours / 100) == []
    text = told(adviser.sections(hours=hours / 100))
    assert "They buy no run: the cheapest model takes" in text


def test_the_next_run_is_new_and_affordable(outlook: Outlook):
    runs, prices = outlook.fit.runs, Prices(outlook.fit.runs)
    models = [
        Place(m, n, 1281167.0, 1024e6) for m, n in {"S": 48.96, "B": 86.89, "L": 195.2}.items()
    ]
    leader = models[-1]
    lesson = next_run(outlook, leader, [leader.longer()], models, prices)
    assert lesson is not None
    silent = leader.longer(100)  # the fit does not speak of it, so that nothing can narrow it
    assert next_run(outlook, leader, [leader.longer(), silent], models, prices) == lesson
    assert next_run(outlook, leader, [silent], models, prices) is None
    assert 0 < lesson.narrower < 1
    same = np.isclose(runs[["params_m", "unique_images", "samples_seen"]], lesson.place[1:])
    assert not same.all(1).any()
    assert lesson.hours <= 4 * runs["seconds"].max() / 3600
    # The run that is asked about, where it can be had, teaches most of itself.
    assert lesson.place.samples == 2048e6


def test_a_lesson_is_a_share_of_the_whole_interval(outlook: Outlook, monkeypatch):
    """The error on runs that were held out widens the interval, and no run takes it away."""
    leader = Place("L", 195.2, 1281167.0, 1024e6)
    asked = (outlook, leader, [leader.longer()], [leader], None)
    lesson = next_run(*asked)
    assert lesson is not None
    gain = outlook.gain(leader, leader.longer())
    wide = gain._replace(low=gain.low - 1, high=min(gain.high + 0.5, 0.99))
    monkeypatch.setattr(Outlook, "gain", lambda *_: wide)
    other = next_run(*asked)
    assert other is not None
    assert other.narrower < 0.1 * lesson.narrower


def test_images_that_were_measured_are_not_predicted(adviser: Adviser):
    text = told(adviser.sections(images=640_584))
    rows = adviser.runs[adviser.runs["unique_images"] == 640_584]
    assert f"The lowest loss that was measured is {rows[LOSS].min():.4g}, by" in text


def test_a_line_for_runs_that_do_not_overfit_is_not_used_of_one_that_does(adviser: Adviser):
    assert "For imagenet1k_top1" in told(adviser.sections())
    text = told(adviser.sections(images=128_117))
    assert "Doubling the images" in text
    assert "For imagenet1k_top1" not in text


def test_a_run_that_may_be_no_better_than_the_best_is_called_so(adviser: Adviser):
    """As many hours as the best run took buy that run again."""
    best = adviser.runs.loc[adviser.runs[LOSS].idxmin()]
    text = told(adviser.sections(hours=1.02 * best["seconds"] / 3600))
    assert "cannot be told from the best run that there is" in text or "keep the hours" in text
    text = told(adviser.sections(hours=10, images=3_000_000))
    assert "keep the hours" not in text


def test_hours_that_buy_what_the_fit_is_silent_of(adviser: Adviser):
    text = told(adviser.sections(hours=1000, images=1_000_000_000))
    assert "The fit says nothing of the runs that they buy: " in text


def test_from_the_command_line(tmp_path: Path, capsys):
    table = tmp_path / "runs.csv"
    published().iloc[:6].drop(columns="seconds").to_csv(table, index=False)
    assert run(["study", "advise", str(table)]) == 0
    assert "What was measured" in capsys.readouterr().out
    assert run(["study", "advise", str(table), "--budget", "3"]) == 2
    assert "column seconds" in capsys.readouterr().err
    assert run(["study", "advise", str(table), "--images", "0"]) == 2
    assert run(["study", "advise", str(tmp_path)]) == 66
    assert "is not a study" in capsys.readouterr().err


def told(sections: list[Section]) -> str:
    return "\n".join("\n".join([section.title, *section.sentences]) for section in sections)

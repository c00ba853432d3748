"""Which model is best, on tables worked out by hand and on 42 published runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from unlabel.scaling.best import best_models, best_table, seed_noise
from unlabel.scaling.findings import Findings
from unlabel.scaling.table import read_runs

PUBLISHED = Path(__file__).parent / "published_runs.csv"


def table(*rows: tuple, **columns) -> pd.DataFrame:
    """Rows of model, samples, seed and loss, on the same images."""
    runs = pd.DataFrame(rows, columns=["model", "samples_seen", "seed", "val_loss"])
    return runs.assign(method="m", source="d", unique_images=100.0, **columns)


def test_the_next_model_is_another_one():
    runs = table(("s", 1, 0, 0.5), ("l", 1, 0, 0.4), ("l", 2, 0, 0.45), knn=[0.9, 0.7, 0.8])
    by_loss, by_figure = best_models(runs)
    assert (by_loss.model, by_loss.samples_seen, by_loss.value) == ("l", 1, 0.4)
    assert (by_loss.other, by_loss.other_value, by_loss.clear) == ("s", 0.5, None)
    assert (by_figure.column, by_figure.model, by_figure.other_value) == ("knn", "s", 0.8)


def test_seeds_tell_whether_a_difference_is_one():
    spread = 0.01  # standard deviation of two seeds that are 0.01 * sqrt(2) apart
    seeds = [(0, spread / np.sqrt(2)), (1, -spread / np.sqrt(2))]
    for gap, clear in ((0.019, False), (0.021, True)):  # two standard errors are 0.02
        rows = [("s", 1, seed, 0.5 + shift) for seed, shift in seeds]
        rows += [("l", 1, seed, 0.5 - gap + shift) for seed, shift in seeds]
        runs = table(*rows)
        assert seed_noise(runs, "val_loss") == pytest.approx(spread)
        (best,) = best_models(runs)
        assert (best.model, best.clear) == ("l", clear)


def test_one_model_has_no_rival():
    (best,) = best_models(table(("s", 1, 0, 0.5), ("s", 2, 0, 0.4)))
    assert (best.samples_seen, best.other, best.clear) == (2, None, None)


def test_with_few_published_images_the_smallest_model_is_best_by_loss_and_not_by_features():
    found = {(b.unique_images, b.column): b for b in Findings.of(read_runs(PUBLISHED)).best}
    assert len(found) == 10
    few, most = found[128117, "val_loss"], found[1281167, "val_loss"]
    assert (few.model, few.samples_seen, few.other) == ("S", 256e6, "B")
    assert (most.model, most.samples_seen, most.other) == ("L", 1024e6, "B")
    assert found[128117, "imagenet1k_top1"].model == "L"


def test_the_noise_is_printed_where_seeds_tell_it():
    rows = [("s", 1, 0, 0.5), ("l", 1, 0, 0.4)]
    console = Console(width=120)
    for runs, said in ((table(*rows), False), (table(*rows, ("l", 1, 1, 0.39)), True)):
        with console.capture() as captured:
            console.print(best_table(list(best_models(runs))))
        assert "l, 1 seen" in captured.get()
        assert ("beyond noise" in captured.get()) == said

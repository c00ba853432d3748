"""What runs show without a fit, on tables worked out by hand and on 42 published runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from unlabel.scaling.findings import Findings, correlations, crossovers, overfitting
from unlabel.scaling.table import read_runs

PUBLISHED = Path(__file__).parent / "published_runs.csv"
"""Validation losses and accuracies of SimMIM with SwinV2-S, B and L, from the model hub of
microsoft/Swin-Transformer (zdaxie/SimMIM)."""


def table(losses: dict[tuple[str, int, int], float], **columns) -> pd.DataFrame:
    """A table from losses by model, images and samples."""
    sizes = {"small": 10.0, "large": 100.0}
    return pd.DataFrame(
        {
            "method": "m",
            "model": [model for model, *_ in losses],
            "source": "d",
            "params_m": [sizes[model] for model, *_ in losses],
            "unique_images": [float(images) for _, images, _ in losses],
            "samples_seen": [float(samples) for *_, samples in losses],
            "val_loss": list(losses.values()),
            "seed": 0,
            **columns,
        }
    )


def test_overfitting_by_length_and_by_data():
    runs = table(
        {
            ("small", 10, 1): 0.50,
            ("small", 10, 2): 0.51,  # longer, and worse
            ("small", 100, 1): 0.49,  # the data above are worse by 0.010 and by 0.03
            ("small", 100, 2): 0.48,
        }
    )
    flags = overfitting(runs)
    assert flags["longer_was_worse"].tolist() == [False, True, False, False]
    assert flags["more_data_was_better"].tolist() == [True, True, False, False]


def test_differences_within_the_noise_of_seeds_are_no_overfitting():
    kinds = {("small", 10, 1): 0.50, ("small", 10, 2): 0.506}
    runs = pd.concat(
        [
            table({key: loss + shift for key, loss in kinds.items()}, seed=seed)
            for seed, shift in ((0, -0.01), (1, 0.01))
        ],
        ignore_index=True,
    )
    assert not overfitting(runs).any(axis=None)
    assert overfitting(runs[runs["seed"] == 0])["longer_was_worse"].tolist() == [False, True]


def test_features_that_get_worse_are_told_apart_from_losses():
    runs = table({("small", 10, 1): 0.5, ("small", 10, 2): 0.4}, knn=[0.8, 0.7])
    flags = overfitting(runs)
    assert flags["worse_features"].tolist() == [False, True]
    assert not flags["longer_was_worse"].any()


def test_a_crossover_is_interpolated_in_the_logarithm_of_images():
    losses = {("small", 10, 1): 0.5, ("large", 10, 1): 0.6}
    losses |= {("small", 1000, 1): 0.4, ("large", 1000, 1): 0.3}
    (line,) = crossovers(table(losses))
    assert line.startswith("large beats small")
    assert line.endswith("from about 100 images on")
    (line,) = crossovers(table(dict.fromkeys(losses, 0.5)))
    assert line.endswith("at none")


SD = 0.01
"""Standard deviation over the seeds of `seeded`."""


def seeded(gains: dict[int, float], seeds: int) -> pd.DataFrame:
    """By how much the larger model is better, for amounts of images, with pairs of seeds."""
    kinds = {("small", images, 1): 0.5 for images in gains}
    kinds |= {("large", images, 1): 0.5 - gain for images, gain in gains.items()}
    shift = SD * np.sqrt((seeds - 1) / seeds)  # half the seeds above and half below
    parts = [
        table({key: loss + shift * (-1) ** seed for key, loss in kinds.items()}, seed=seed)
        for seed in range(seeds)
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(
    ("gains", "seeds", "said"),
    [  # two standard errors of a difference are 0.02 for two seeds, and 0.01 for eight
        ({10: 0.019, 1000: -0.019}, 2, "nowhere by more than the noise of seeds, nor is beaten"),
        ({10: 0.021, 1000: 0.03}, 2, "at every amount of data"),
        ({10: 0.011, 1000: 0.03}, 8, "at every amount of data"),
        ({10: 0.0, 1000: 0.011}, 8, "from 1,000 images on; level within the noise of seeds at 10"),
        ({10: -0.02, 1000: 0.02}, 8, "from about 100 images on"),
        ({10: -0.05, 100: 0.005, 1000: -0.005}, 8, "at none"),
        ({10: 0.02, 1000: 0.005}, 8, "not with the most data"),
    ],
)
def test_crossovers_are_beyond_the_noise_of_seeds(gains: dict, seeds: int, said: str):
    (line,) = crossovers(seeded(gains, seeds))
    assert line == f"large beats small after 1 samples {said}"


def test_correlations_have_their_closed_form():
    losses = np.array([0.5, 0.4, 0.45, 0.3, 0.2])
    runs = table({("small", 10 + i, 1): v for i, v in enumerate(losses)}, knn=1 - losses)
    found = {c.which: c for c in correlations(runs, pd.Series(False, index=runs.index))}
    assert set(found) == {"all", "not overfit"}
    assert found["all"].r == pytest.approx(-1)
    knn = [0.1, 0.5, 0.3, 0.4, 0.6]
    (c, _) = correlations(runs.assign(knn=knn), pd.Series(False, index=runs.index))
    assert c.rank == pytest.approx(-0.9)  # ranks 5 3 4 2 1 and 1 4 2 3 5
    half = 1.959964 / np.sqrt(5 - 3)  # Fisher's z
    assert c.r == pytest.approx(np.corrcoef(losses, knn)[0, 1])
    assert c.low == pytest.approx(np.tanh(np.arctanh(c.r) - half))


def test_the_published_runs_overfit_where_the_facts_say():
    """S, B and L at 10 % of ImageNet-1k always by the second rule, and at 20 % when long."""
    runs = read_runs(PUBLISHED)
    found = Findings.of(runs)
    place = list(zip(runs["model"], runs["dataset"], runs["iterations"], strict=True))
    longer = {place[i] for i in np.flatnonzero(found.flags["longer_was_worse"])}
    either = {place[i] for i in np.flatnonzero(found.overfit)}
    assert longer == {
        *((m, "in1k-10", it) for m in "SBL" for it in (250_000, 500_000)),
        *((m, "in1k-20", 500_000) for m in "SBL"),
        ("L", "in1k-20", 250_000),
    }
    assert either - longer == {
        *((m, "in1k-10", 125_000) for m in "SBL"),
        ("B", "in1k-20", 250_000),
        ("L", "in1k-20", 125_000),
    }
    r = {c.which: c.r for c in found.correlations}
    assert r["not overfit"] == pytest.approx(-0.964, abs=5e-4)

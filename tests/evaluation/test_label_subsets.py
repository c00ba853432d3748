"""Label subsets: stratified, nested, seeded, never without a class."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlabel.errors import DataError, UsageError
from unlabel.evaluation.labels import describe_size, label_subset, parse_size, split_labelled

labellings = st.lists(st.integers(-1, 4), min_size=1, max_size=80).filter(lambda x: max(x) >= 0)
seeds = st.integers(0, 2**32)


@given(labellings, seeds)
def test_sizes_are_nested_stratified_and_seeded(values, seed):
    labels = np.array(values)
    subsets = [set(label_subset(labels, size, seed)) for size in ("1", "2", "5", "20", "all")]
    assert all(small <= large for small, large in itertools.pairwise(subsets))
    for count, subset in zip((1, 2, 5, 20), subsets, strict=False):
        rows = np.array(sorted(subset))
        for label in np.unique(labels[labels >= 0]):
            there = (labels == label).sum()
            assert (labels[rows] == label).sum() == min(count, there)
    assert subsets[-1] == set(np.flatnonzero(labels >= 0))
    assert np.array_equal(label_subset(labels, "2", seed), label_subset(labels, "2", seed))


@given(labellings, st.integers(1, 99), seeds)
def test_a_percentage_keeps_every_class(values, percent, seed):
    labels = np.array(values)
    rows = label_subset(labels, f"{percent}%", seed)
    for label in np.unique(labels[labels >= 0]):
        there = (labels == label).sum()
        assert (labels[rows] == label).sum() == max(1, round(there * percent / 100))
    assert (labels[rows] >= 0).all()
    assert (np.diff(rows) > 0).all()


def test_other_seeds_draw_other_images():
    labels = np.arange(1000) % 10
    assert not np.array_equal(label_subset(labels, "5", 0), label_subset(labels, "5", 1))


@given(labellings, st.floats(0.05, 0.9), seeds)
def test_the_split_is_disjoint_and_trains_every_class(values, fraction, seed):
    labels = np.array(values)
    if max(np.bincount(labels[labels >= 0])) < 2:
        with pytest.raises(DataError, match="nothing to test with"):
            split_labelled(labels, fraction, seed)
        return
    train, test = split_labelled(labels, fraction, seed)
    assert not set(train) & set(test)
    assert set(train) | set(test) == set(np.flatnonzero(labels >= 0))
    assert set(labels[train]) == set(labels[labels >= 0])


def test_no_labels_at_all_says_how_to_give_them():
    with pytest.raises(DataError, match="sub-folder a class"):
        label_subset(np.full(5, -1), "1")
    with pytest.raises(DataError, match="sub-folder a class"):
        split_labelled(np.full(5, -1))


@pytest.mark.parametrize("size", ["0", "-1", "0%", "101%", "five", "", "5.5", "1e3"])
def test_sizes_that_cannot_be_read(size):
    with pytest.raises(UsageError, match="labels a class"):
        parse_size(size)


def test_sizes_in_words():
    words = [describe_size(size) for size in ("1", "20", "10%", "100%", "all")]
    assert words == [
        "1 label a class", "20 labels a class", "10% of labels", "all labels", "all labels"
    ]  # fmt: skip

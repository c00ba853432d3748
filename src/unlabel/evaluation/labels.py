"""Which images keep their label: the same nested, stratified subsets for everything compared."""

from __future__ import annotations

import re

import numpy as np

from unlabel.errors import DataError, UsageError

ALL = ("all", "100%")


def label_subset(labels: np.ndarray, size: str, seed: int = 0) -> np.ndarray:
    """Draw a stratified subset of the labelled images.

    For one seed the subsets are nested: what "1" holds, "5" holds too, and so with percentages.

    Args:
        labels: int64 (n,); -1 marks an image without a label, which is never drawn.
        size: ``"5"`` labels a class (all of a class that has fewer), ``"10%"`` of each class
            (rounded, at least one), or ``"all"``.
        seed: of the draw.

    Returns:
        int64 rows, ascending.

    Raises:
        UsageError: ``size`` cannot be read.
        DataError: no image has a label.
    """
    share, count = parse_size(size)
    if not (labels >= 0).any():
        raise DataError(
            "No image has a label. Give labels by one sub-folder a class, or with a table: "
            "unlabel ingest IMAGES --labels labels.csv."
        )
    chosen = []
    for label in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == label)
        order = np.random.Generator(np.random.Philox(key=[seed, int(label)])).permutation(rows)
        wanted = count if count is not None else max(1, round(share * len(rows)))
        chosen.append(order[:wanted])
    return np.sort(np.concatenate(chosen))


def parse_size(size: str) -> tuple[float, int | None]:
    """Read a size as (share of each class, labels a class); the second is None for a share.

    Raises:
        UsageError: it is neither a number of labels, nor a percentage, nor "all".
    """
    text = size.strip().lower()
    if text in ALL:
        return 1.0, None
    if re.fullmatch(r"[1-9]\d*", text):
        return 1.0, int(text)
    if re.fullmatch(r"\d+(\.\d+)?%", text) and 0 < float(text[:-1]) <= 100:
        return float(text[:-1]) / 100, None
    raise UsageError(
        f"{size!r} is no number of labels: give labels a class (5), a percentage (10%) or all."
    )


def describe_size(size: str) -> str:
    """A size in words, as tables print it: "5 labels a class", "10% of labels", "all labels"."""
    share, count = parse_size(size)
    if count is not None:
        return "1 label a class" if count == 1 else f"{count} labels a class"
    return "all labels" if share == 1 else f"{size.strip()} of labels"


def split_labelled(
    labels: np.ndarray, fraction: float = 0.2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Split labelled images into training and test rows, stratified, where no split is given.

    A class of a single image goes to training.

    Args:
        labels: int64 (n,); -1 marks an image without a label, which is in neither part.
        fraction: share of each class that is set apart for testing.
        seed: of the draw.

    Raises:
        DataError: no image has a label, or no class has a second image to test with.
    """
    test = []
    for label in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == label)
        order = np.random.Generator(np.random.Philox(key=[seed, int(label)])).permutation(rows)
        # From the end: the first are what `label_subset` draws first.
        wanted = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        test.append(order[len(rows) - wanted :])
    held = np.sort(np.concatenate(test)) if test else np.empty(0, np.int64)
    if len(held) == 0:
        raise DataError(
            "There is nothing to test with: no class has two labelled images. "
            "Give labels by one sub-folder a class, or a labelled test set with --test."
        )
    return np.setdiff1d(np.flatnonzero(labels >= 0), held), held

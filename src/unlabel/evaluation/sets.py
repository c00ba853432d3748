"""The labelled images of an evaluation: some to learn from, others to measure on."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from unlabel.data.images import Images
from unlabel.data.store import Store
from unlabel.errors import DataError
from unlabel.evaluation.labels import label_subset, split_labelled

HOW_TO_LABEL = (
    "Give labels by one sub-folder a class, or with a table: "
    "unlabel ingest IMAGES --labels labels.csv."
)


class LabelledSets:
    """Training and test images, all labelled, with the classes of the training set.

    Attributes:
        train: the images to learn from.
        test: the images to measure on.
        labels: int64 (n,), classes of ``train``.
        truth: int64 (m,), classes of ``test``, numbered as in ``train``.
        classes: their names.
        left_out: training images left out because they are, pixel for pixel, test images.
    """

    def __init__(self, train: Store, test: Store) -> None:
        self.test, own = _labelled(test, "test")
        unseen = _without(train, self.test)
        self.left_out = len(train) - len(unseen)
        self.train, self.labels = _labelled(unseen, "training")
        _refuse_other_pixels(train, test)
        self.classes = tuple(train.info.classes)
        self.truth = torch.from_numpy(_renumber(own, tuple(test.info.classes), self.classes))
        self.subset = lru_cache(maxsize=None)(self._subset)
        self._images: dict[int, Images] = {}

    @classmethod
    def of(cls, train: Store, test: Store | None, seed: int) -> LabelledSets:
        """Training and test images as given, as split in the store, or split here by the seed.

        Raises:
            DataError: there are no labels, the test set has classes that training lacks, or all
                training images are test images.
        """
        if test is None and {"train", "test"} <= set(train.info.splits):
            train, test = train.split("train"), train.split("test")
        if test is None:
            whole, labels = _labelled(train, "given")
            ours, held = split_labelled(labels, seed=seed)
            train, test = whole.select(ours), whole.select(held)
        return cls(train, test)

    def _subset(self, size: str, seed: int) -> np.ndarray:
        """Rows of ``train`` that keep their label; see `labels.label_subset`."""
        return label_subset(self.labels, size, seed)

    def is_all(self, size: str) -> bool:
        """Whether ``size`` takes every label, whatever the seed."""
        return len(self.subset(size, 0)) == len(self.labels)

    def seen_by(self, learnt_from: Store | None) -> int | None:
        """Test images that are, pixel for pixel, in ``learnt_from``; ``None`` if it is unknown."""
        if learnt_from is None:
            return None
        return int(np.isin(self.test.column("hash"), learnt_from.column("hash")).sum())

    def test_images(self, size: int, batch_size: int, workers: int) -> Images:
        """The test images at ``size`` pixels, kept between subjects where they are small."""
        if size not in self._images:
            self._images[size] = Images(self.test, size, batch_size=batch_size, workers=workers)
        return self._images[size]


def _labelled(store: Store, which: str) -> tuple[Store, np.ndarray]:
    """The labelled part of a store, and its labels."""
    labels = store.labels
    if labels is None or not (labels >= 0).any():
        raise DataError(f"None of the {len(store)} {which} images has a label. {HOW_TO_LABEL}")
    if (labels >= 0).all():
        return store, np.asarray(labels)
    rows = np.flatnonzero(labels >= 0)
    return store.select(rows), np.asarray(labels)[rows]


def _renumber(labels: np.ndarray, own: tuple[str, ...], classes: tuple[str, ...]) -> np.ndarray:
    """Labels of the classes ``own`` as numbers of ``classes``.

    Raises:
        DataError: a class that has test images is not among ``classes``.
    """
    unknown = [own[i] for i in np.unique(labels) if own[i] not in classes]
    if unknown:
        raise DataError(
            f"The test set has classes that the training set lacks: {', '.join(unknown)}. "
            f"Classes of the training set: {', '.join(classes)}. Name the classes alike in both."
        )
    return np.array([classes.index(name) if name in classes else -1 for name in own])[labels]


def _refuse_other_pixels(train: Store, test: Store) -> None:
    """Raise DataError unless both have the same channels and number type."""
    ours, theirs = ((s.info.channels, s.info.dtype) for s in (train, test))
    if ours != theirs:
        raise DataError(
            f"Training images have {ours[0]} channels of {ours[1]}, test images {theirs[0]} of "
            f"{theirs[1]}. Ingest both from images of one kind."
        )


def _without(train: Store, test: Store) -> Store:
    """The images of ``train`` that are not, pixel for pixel, in ``test`` as well.

    Raises:
        DataError: all of them are.
    """
    shared = np.isin(train.column("hash"), test.column("hash"))
    if shared.all():
        raise DataError(
            f"All {len(train)} training images are test images too, so accuracy would say nothing. "
            "Give separate test images with --test, or none, and a fifth is set apart."
        )
    return train.select(~shared) if shared.any() else train

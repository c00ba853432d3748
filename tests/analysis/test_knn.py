"""Weighted nearest neighbours against a float64 loop and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from unlabel.analysis import knn
from unlabel.analysis.knn import knn_accuracy, predict_knn
from unlabel.errors import DataError


def blobs(n, classes=5, dim=8, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    features = (centres[labels] + 1.5 * rng.normal(size=(n, dim))).astype(np.float32)
    return torch.from_numpy(features), torch.from_numpy(labels)


def loop(train, labels, test, k, temperature):
    train, test = train.double().numpy(), test.double().numpy()
    result = []
    for row in test:
        similarity = [row @ t / np.linalg.norm(row) / np.linalg.norm(t) for t in train]
        votes = np.zeros(int(labels.max()) + 1)
        for i in np.argsort(similarity)[::-1][:k]:
            votes[labels[i]] += np.exp(similarity[i] / temperature)
        result.append(votes.argmax())
    return torch.tensor(result)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (10, 0.07), (20, 0.5)])
def test_equals_a_float64_loop(k, temperature):
    train, labels = blobs(120)
    test, _ = blobs(60, seed=1)
    ours = predict_knn(train, labels, test, k=k, temperature=temperature)
    assert torch.equal(ours, loop(train, labels, test, k, temperature))


def test_equals_scikit_learn():
    train, labels = blobs(400)
    test, truth = blobs(200, seed=2)
    peer = KNeighborsClassifier(
        20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07), algorithm="brute"
    ).fit(train.numpy(), labels.numpy())
    assert np.array_equal(predict_knn(train, labels, test).numpy(), peer.predict(test.numpy()))
    expected = peer.score(test.numpy(), truth.numpy())
    assert knn_accuracy(train, labels, test, truth) == pytest.approx(expected)


def test_chunks_change_nothing(monkeypatch):
    train, labels = blobs(100)
    test, _ = blobs(50, seed=3)
    whole = predict_knn(train, labels, test)
    monkeypatch.setattr(knn, "CELLS", 700)
    assert torch.equal(predict_knn(train, labels, test), whole)


def test_more_neighbours_than_images_is_all_of_them():
    train, labels = blobs(7)
    test, _ = blobs(30, seed=4)
    assert torch.equal(
        predict_knn(train, labels, test, k=20), predict_knn(train, labels, test, k=7)
    )


def test_a_tiny_temperature_does_not_overflow():
    train, labels = blobs(50)
    assert knn_accuracy(train, labels, train, labels, temperature=1e-4) == 1


def test_images_without_labels_are_refused():
    train, labels = blobs(10)
    with pytest.raises(DataError, match="10 images, 9 labels"):
        predict_knn(train, labels[:9], train)

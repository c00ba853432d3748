"""Nearest neighbours of features: the quickest judge of a representation that labels allow.

Shapes: n training and m test images, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from unlabel.errors import DataError

CELLS = 2**25
"""Similarities held at a time (128 MiB in float32)."""


@torch.no_grad()
def predict_knn(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Classes by a vote of the nearest training images, weighted by exp(cosine / temperature).

    The protocol of Wu et al. 2018 (arXiv 1805.01978, section 3.4) as DINO uses it.

    Args:
        train: (n, D), on the device to compute on.
        labels: int64 (n,), classes from 0.
        test: (m, D).
        k: neighbours that vote; all of them where there are fewer training images.
        temperature: small values let the nearest decide.

    Returns:
        int64 (m,), on the device of ``test``. The lower class wins a tie.

    Raises:
        DataError: there is no training image, or images and labels differ in number.
    """
    if len(train) == 0 or len(train) != len(labels):
        raise DataError(
            "kNN needs a label for each of its training images, and at least one: came "
            f"{len(train)} images, {len(labels)} labels."
        )
    bank = F.normalize(train.float(), dim=1).T
    labels = labels.to(bank.device)
    classes = int(labels.max()) + 1
    k = min(k, len(train))
    predicted = []
    for rows in test.split(max(1, CELLS // len(train))):
        similarity = F.normalize(rows.to(bank.device).float(), dim=1) @ bank
        nearest, index = similarity.topk(k, dim=1)
        # Relative to the nearest: the same vote, and no overflow at any temperature.
        weight = ((nearest - nearest[:, :1]) / temperature).exp()
        votes = weight.new_zeros(len(rows), classes).scatter_add_(1, labels[index], weight)
        predicted.append(votes.argmax(1))
    return torch.cat(predicted).to(test.device)


def knn_accuracy(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of test images, in [0, 1], that `predict_knn` classifies rightly."""
    predicted = predict_knn(train, labels, test, k=k, temperature=temperature)
    return (predicted == test_labels.to(predicted.device)).float().mean().item()

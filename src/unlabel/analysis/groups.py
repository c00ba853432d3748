"""Groups of like images: k-means of what a network makes of them.

Shapes: n images, D features, K centroids.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from unlabel.analysis.features import embed_all
from unlabel.backbones.base import Backbone
from unlabel.data import images
from unlabel.data.store import Store

SAMPLE = 65_536
"""Most images that k-means learns from; each image is then given to the nearest centroid."""
STARTS = 3
"""Times that k-means is begun; the best of them is taken."""


def group_images(
    backbone: Backbone,
    learnt_from: Store,
    others: Store,
    *,
    groups: int,
    least: int,
    seed: int,
    device: torch.device | str,
) -> np.ndarray:
    """Divide the images that are learnt from, and give each of ``others`` to the nearest group.

    Args:
        backbone: on ``device``, in evaluation mode; only the direction of its vectors counts.
        learnt_from: the images to divide.
        others: further images of the same store.
        groups: how many are wanted, at most.
        least: images that each group must have; see `large_enough`.
        seed: the same groups for the same seed.
        device: where to compute.

    Returns:
        int64 (rows of the whole store,), groups from 0 on; -1 for rows in neither view.
    """
    mean, std = learnt_from.info.mean, learnt_from.info.std

    def directions(pixels: Tensor) -> Tensor:
        return normalize(backbone.embed(images.normalise(pixels, mean, std)).float(), dim=1)

    def seen(store: Store) -> images.Images:
        return images.Images(store, backbone.image_size)

    some = learnt_from
    if len(learnt_from) > SAMPLE:
        some = learnt_from.holdout(1.0, SAMPLE, seed)[1]
    centroids = find_centroids(embed_all(directions, seen(some), device), groups, seed)

    def near(pixels: Tensor) -> Tensor:
        return closeness(directions(pixels), centroids)

    ours, theirs = (embed_all(near, seen(store), device).cpu() for store in (learnt_from, others))
    kept = large_enough(ours, least)
    found = np.full(learnt_from.info.images, -1, np.int64)
    found[learnt_from.ids] = ours[:, kept].argmax(1).numpy()
    found[others.ids] = theirs[:, kept].argmax(1).numpy()
    return found


def find_centroids(vectors: Tensor, groups: int, seed: int) -> Tensor:
    """Centroids (min(groups, n), D) of vectors (n, D), by k-means on mini-batches."""
    from sklearn.cluster import MiniBatchKMeans  # a second, which only DnC waits for

    groups = min(groups, len(vectors))
    kmeans = MiniBatchKMeans(groups, random_state=seed, n_init=STARTS, batch_size=4096)
    kmeans.fit(vectors.cpu().numpy())
    return torch.from_numpy(kmeans.cluster_centers_).to(vectors)


def closeness(vectors: Tensor, centroids: Tensor) -> Tensor:
    """Scores (n, K), the higher the nearer: half of each squared distance is taken from what all
    centroids have in common. In full precision, as directions differ little.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        return vectors @ centroids.T - centroids.square().sum(1) / 2


def large_enough(scores: Tensor, least: int) -> Tensor:
    """The centroids, by number, that keep ``least`` rows of scores (n, K) each; one at least.

    The smallest is taken away and its members join the nearest of the others, until all are large
    enough.
    """
    kept = torch.arange(scores.shape[1])
    while len(kept) > 1:
        sizes = scores[:, kept].argmax(1).bincount(minlength=len(kept))
        if sizes.min() >= least:
            break
        kept = kept[torch.arange(len(kept)) != sizes.argmin()]
    return kept

"""Spherical k-means: centroids of unit length that maximise the cosine to their members."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

CHUNK = 8192
"""Vectors assigned at once, which bounds the memory of their scores."""


def spherical_kmeans(vectors: Tensor, clusters: int, iterations: int = 10) -> Tensor:
    """Lloyd's iterations on the unit sphere, from random distinct vectors.

    A centroid that loses all its members stays where it was.

    Args:
        vectors: (m, d), of unit length.
        clusters: number of centroids wanted; with fewer vectors, each of them is one.
        iterations: how many times vectors are assigned and centroids moved.

    Returns:
        (min(clusters, m), d), of unit length.
    """
    centroids = vectors[torch.randperm(len(vectors))[:clusters]].clone()
    if len(vectors) <= clusters:
        return centroids
    for _ in range(iterations):
        member = torch.cat([(part @ centroids.T).argmax(1) for part in vectors.split(CHUNK)])
        sums = torch.zeros_like(centroids).index_add_(0, member, vectors)
        length = sums.norm(dim=1, keepdim=True)
        centroids = torch.where(length > 1e-6, sums / length.clamp(min=1e-6), centroids)
    return normalize(centroids, dim=1)

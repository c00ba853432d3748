"""How sure an accuracy is: bootstrap intervals over test images and over seeds together.

Shapes: S seeds, m test images.
"""

from __future__ import annotations

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95


def bootstrap(scores: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Bootstrap the mean of scores of S seeds on the same m test images.

    A resample draws m images with replacement, the same for all seeds since they share them, and S
    seeds with replacement (the crossed bootstrap of Owen 2007, arXiv 0711.2421: conservative where
    the two interact). Few seeds drawn with replacement look closer together than they are, by
    (S - 1) / S of the variance, so their weights are spread by sqrt(S / (S - 1)).

    Args:
        scores: (S, m), any real values; few distinct columns are fast (right or wrong: 2^S).
        resamples: how many.
        seed: of the draws.

    Returns:
        float64 (resamples,), means.
    """
    rng = np.random.default_rng(seed)
    seeds, images = scores.shape
    # Images with the same outcome are alike: counting outcomes is drawing images, but m times less.
    outcomes, counts = np.unique(scores, axis=1, return_counts=True)
    drawn = rng.multinomial(images, counts / images, size=resamples)
    per_seed = drawn @ outcomes.T.astype(np.float64) / images
    if seeds == 1:
        return per_seed[:, 0]
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    spread = 1 + (weights - 1) * np.sqrt(seeds / (seeds - 1))
    return (per_seed * spread).mean(1)


def interval(scores: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of ``scores`` (S, m); see `bootstrap`.

    With one seed it speaks of that seed's labels and weights only; with fewer than about five it
    knows little of what other seeds would give.
    """
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(bootstrap(scores, seed=seed), [tail, 1 - tail])
    return float(low), float(high)

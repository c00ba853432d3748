"""Linear probe: multinomial logistic regression on frozen features, by L-BFGS.

Shapes: n images, D features, C classes, L regularisations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

REGULARISATIONS = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)
"""L2 strengths tried, strong to weak: each solution starts the search for the next."""
FALLBACK = 0.01
"""L2 strength where a class has a single label, so that nothing can be held out; and of strengths
that are equally good the one nearest to it wins."""
FOLDS = 5
"""Parts of the training images; each is held out once while there are few labels."""
FEW = 2000
"""Up to so many labels every part is held out in turn; beyond it one part is enough."""
ITERATIONS = 50
"""Most L-BFGS iterations of one fit while choosing."""
FINAL_ITERATIONS = 300
"""Most L-BFGS iterations of the last fit, on all images."""
SMALL = 2**24
"""Features times images below which one thread is the fastest."""


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of raw features; standardisation is folded into its weights.

    ``weight`` is (C, D) and ``bias`` (C,), float32. ``regularisation`` is the L2 strength chosen.
    """

    weight: Tensor
    bias: Tensor
    regularisation: float

    def logits(self, features: Tensor) -> Tensor:
        """Scores (m, C) of features (m, D)."""
        return F.linear(features.float(), self.weight, self.bias)

    def predict(self, features: Tensor) -> Tensor:
        """Classes, int64 (m,), of features (m, D)."""
        return self.logits(features).argmax(1)


def fit_linear(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    regularisations: Sequence[float] = REGULARISATIONS,
    seed: int = 0,
) -> LinearProbe:
    """Fit a probe, its regularisation chosen on held-out training images.

    The transfer protocol of BYOL (arXiv 2006.07733, appendix D.1), with a shorter list of
    regularisations, on standardised features. The objective is the mean cross-entropy plus half the
    L2 strength times the squared weights; the bias is free. The strength with the best accuracy
    over stratified held-out parts wins, and the probe is fitted again on all images. A class with a
    single label leaves nothing to hold out: then it is ``FALLBACK``.

    Args:
        features: float (n, D), on the device to compute on.
        labels: int64 (n,), from 0 to C - 1; not every class needs to be there.
        classes: C.
        regularisations: L2 strengths to choose from.
        seed: which images are held out.
    """
    mean, std = features.float().mean(0), features.float().std(0, correction=0)
    # A feature that never varies carries nothing; dividing by one leaves it at zero.
    std = torch.where(std > 1e-6 * std.max().clamp(min=1e-12), std, 1.0)
    x, y = (features.float() - mean) / std, labels.to(features.device)
    path = sorted(regularisations, reverse=True)
    chosen, start = (path[0], None) if len(path) == 1 else _choose(x, y, classes, path, seed)
    solution = minimise(x, y, classes, chosen, start=start, iterations=FINAL_ITERATIONS)
    weight = solution[:, :-1] / std
    return LinearProbe(weight, solution[:, -1] - weight @ mean, chosen)


def _choose(
    x: Tensor, y: Tensor, classes: int, path: Sequence[float], seed: int
) -> tuple[float, Tensor | None]:
    """The strength of ``path`` (strong to weak) that is best on held-out images.

    With it comes a solution at that strength, of a part of the images, to start from.
    """
    truth = y.cpu().numpy()
    counts = np.bincount(truth)
    folds = min(FOLDS, int(counts[counts > 0].min()))
    if folds < 2:
        return FALLBACK, None
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(truth, truth))
    right, solutions = np.zeros(len(path)), [torch.empty(0)] * len(path)
    for fit, held in splits if len(truth) <= FEW else splits[:1]:
        a, b = (torch.from_numpy(rows).to(x.device) for rows in (fit, held))
        solution = None
        for i, strength in enumerate(path):
            solution = solutions[i] = minimise(x[a], y[a], classes, strength, start=solution)
            scores = F.linear(x[b], solution[:, :-1], solution[:, -1])
            right[i] += (scores.argmax(1) == y[b]).sum().item()
    equals = [i for i in range(len(path)) if right[i] == right.max()]
    best = min(equals, key=lambda i: abs(math.log(path[i] / FALLBACK)))
    return path[best], solutions[best]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with so many threads: on small problems they wait for each other, not for work."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


def minimise(
    x: Tensor,
    y: Tensor,
    classes: int,
    strength: float,
    *,
    start: Tensor | None = None,
    iterations: int = ITERATIONS,
) -> Tensor:
    """Minimise mean cross-entropy + strength / 2 * ||W||^2 over weights and biases.

    Args:
        x: float32 (n, D).
        y: int64 (n,).
        classes: C.
        strength: of the L2 penalty; biases are free of it.
        start: (C, D + 1), where the search begins; zeros when not given.
        iterations: most L-BFGS iterations.

    Returns:
        float32 (C, D + 1), weights and, last, biases.
    """
    shape = (classes, x.shape[1] + 1)
    rows = torch.arange(len(y), device=x.device)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.from_numpy(flat).to(x.device, torch.float32).view(shape)
        weight = theta[:, :-1]
        logits = torch.addmm(theta[:, -1], x, weight.T)
        log_p = logits.log_softmax(1)
        loss = -log_p[rows, y].mean() + strength / 2 * weight.square().sum()
        error = log_p.exp_()
        error[rows, y] -= 1
        error /= len(y)
        slope = torch.cat([error.T @ x + strength * weight, error.sum(0)[:, None]], 1)
        return loss.item(), slope.double().cpu().numpy().ravel()

    first = np.zeros(shape) if start is None else start.double().cpu().numpy()
    options = {"maxiter": iterations, "ftol": 1e-7, "gtol": 1e-5}
    with _threads(1 if x.numel() < SMALL else torch.get_num_threads()):
        found = minimize(objective, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(found.x).to(x.device, torch.float32).view(shape)

"""Published forms of the loss as a function of model, data and length, and two of ours.

Each takes its parameters p and, as logarithms relative to the table's middle, n (model parameters),
u (unique images) and s (images seen); it gives the loss relative to the table's middle. Amplitudes
are logarithms too, so that none can be negative (the log-sum-exp parametrisation of the Chinchilla
paper).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Points:
    """Where losses are wanted: n, u and s as above, and how often images are repeated, S/U."""

    n: Array
    u: Array
    s: Array
    repeats: Array


Function = Callable[[Array, Points], Array]

FLOOR, AMPLITUDE, POWER, STEEP = (-3.0, 0.1), (-8.0, 1.0), (0.02, 2.0), (0.0, 5.0)
EXCESS, ONSET = (-7.0, 1.0), (-10.0, 6.0)
"""Ranges of parameters: of an amplitude, from the middle loss divided by 3,000 to 3 times it."""


@dataclass(frozen=True)
class Form:
    """One form: ``ranges`` are of its parameters, by name, in the order that it takes them."""

    name: str
    source: str
    ranges: dict[str, tuple[float, float]]
    loss: Function

    @property
    def low(self) -> Array:
        """Lower ends of the ranges."""
        return np.array([low for low, _ in self.ranges.values()])

    @property
    def high(self) -> Array:
        """Upper ends of the ranges."""
        return np.array([high for _, high in self.ranges.values()])


def _model_and_length(p: Array, n: Array, s: Array) -> Array:
    return np.exp(p[0]) + np.exp(p[1] - p[2] * n) + np.exp(p[3] - p[4] * s)


def chinchilla(p: Array, at: Points) -> Array:
    """E + A N^-alpha + B S^-beta: blind to how many images differ."""
    return _model_and_length(p, at.n, at.s)


def additive(p: Array, at: Points) -> Array:
    """E + A N^-alpha + B S^-beta + C U^-gamma."""
    return _model_and_length(p, at.n, at.s) + np.exp(p[5] - p[6] * at.u)


def effective(p: Array, at: Points) -> Array:
    """E + A N^-alpha + B D^-beta, where repeated images count less and less.

    D = U (1 + R (1 - exp(-r / R))) after r repetitions. It cannot rise with length.
    """
    worth = np.exp(p[5])
    seen = at.u + np.log1p(-worth * np.expm1(-np.maximum(at.repeats - 1, 0) / worth))
    return _model_and_length(p, at.n, seen)


def bounded(p: Array, at: Points) -> Array:
    """E + (L0 - E) h / (1 + h), h = a N^-alpha + b S^-beta + c N^gamma / U^delta."""
    h = (
        np.exp(p[2] - p[3] * at.n)
        + np.exp(p[4] - p[5] * at.s)
        + np.exp(p[6] + p[7] * at.n - p[8] * at.u)
    )
    return np.exp(p[0]) + np.exp(p[1]) * h / (1 + h)


def bounded_with_length(p: Array, at: Points) -> Array:
    """The same with c N^gamma S^tau / U^delta: overfitting grows with the length too."""
    over = np.exp(p[6] + p[7] * at.n - p[8] * at.u + p[9] * at.s)
    h = np.exp(p[2] - p[3] * at.n) + np.exp(p[4] - p[5] * at.s) + over
    return np.exp(p[0]) + np.exp(p[1]) * h / (1 + h)


def saturating(p: Array, at: Points) -> Array:
    """Chinchilla + K x / (1 + x), x = c N^gamma S^tau / U^delta: rises, then levels off."""
    x = p[6] + p[7] * at.n + p[8] * at.s - p[9] * at.u
    return _model_and_length(p, at.n, at.s) + np.exp(p[5]) / (1 + np.exp(-x))


def exponential(p: Array, at: Points) -> Array:
    """Chinchilla + K (1 - exp(-x)), with the same x: levels off sooner."""
    x = np.minimum(p[6] + p[7] * at.n + p[8] * at.s - p[9] * at.u, 30)
    return _model_and_length(p, at.n, at.s) - np.exp(p[5]) * np.expm1(-np.exp(x))


_PLAIN = {"E": FLOOR, "A": AMPLITUDE, "alpha": POWER, "B": AMPLITUDE, "beta": POWER}
_BOUND = {
    "E": FLOOR,
    "L0-E": (-4.0, 3.0),
    "a": AMPLITUDE,
    "alpha": POWER,
    "b": AMPLITUDE,
    "beta": POWER,
    "c": ONSET,
    "gamma": STEEP,
    "delta": STEEP,
}
_OVER = {"K": EXCESS, "c": ONSET, "gamma": STEEP, "tau": STEEP, "delta": STEEP}

FORMS = (
    Form("chinchilla", "Hoffmann et al. 2022", _PLAIN, chinchilla),
    Form("additive", "an image term added", {**_PLAIN, "C": AMPLITUDE, "gamma": POWER}, additive),
    Form(
        "effective samples",
        "Muennighoff et al. 2023",
        {**_PLAIN, "R": (-2.0, 6.0)},
        effective,
    ),
    Form("bounded", "Bryant and Liu 2026", _BOUND, bounded),
    Form("bounded, with length", "ours", {**_BOUND, "tau": STEEP}, bounded_with_length),
    Form("saturating overfit", "ours", {**_PLAIN, **_OVER}, saturating),
    Form("exponential overfit", "ours", {**_PLAIN, **_OVER}, exponential),
)
"""From the plainest on."""

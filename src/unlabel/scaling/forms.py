"""Forms of the loss as a function of model, data and length: published ones, and ours.

Each takes its parameters p and, as logarithms relative to the table's middle, n (model parameters),
u (unique images) and s (images seen); it gives the loss relative to the table's middle. Amplitudes
are logarithms too, so that none can be negative (the log-sum-exp parametrisation of the Chinchilla
paper).

Ours have four parts: what an endless stream of images would come to, by model and length (a
*base*); a term that falls with the images; and overfitting, which sets in with x (its *onset*) and
levels off at a *height*.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

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
Ranges = dict[str, tuple[float, float]]

FLOOR, AMPLITUDE, POWER, STEEP = (-3.0, 0.1), (-8.0, 1.0), (0.02, 2.0), (0.0, 5.0)
EXCESS, CEILING, ONSET = (-7.0, 1.0), (-0.2, 0.8), (-10.0, 6.0)
"""Ranges of parameters: of an amplitude, from the middle loss divided by 3,000 to 3 times it."""
BELIEFS = {"K": (-2.3, 1.0), "C": (0.1, 0.15)}
"""Where overfitting levels off, as far as one run would tell that hit it: about a tenth above the
middle loss. A table in which no run gets there does not say, and would let it run away."""


@dataclass(frozen=True)
class Form:
    """One form: ``ranges`` are of its parameters, by name, in the order that it takes them."""

    name: str
    source: str
    ranges: Ranges
    loss: Function

    @property
    def low(self) -> Array:
        """Lower ends of the ranges."""
        return np.array([low for low, _ in self.ranges.values()])

    @property
    def high(self) -> Array:
        """Upper ends of the ranges."""
        return np.array([high for _, high in self.ranges.values()])


def chinchilla(p: Array, at: Points) -> Array:
    """E + A N^-alpha + B S^-beta: blind to how many images differ."""
    return np.exp(p[0]) + np.exp(p[1] - p[2] * at.n) + np.exp(p[3] - p[4] * at.s)


def kaplan(p: Array, at: Points) -> Array:
    """(A N^-alpha + B S^-beta)^c: length pays more for a larger model."""
    return np.exp(p[4] * np.logaddexp(p[0] - p[1] * at.n, p[2] - p[3] * at.s))


def power_law(p: Array, at: Points) -> Array:
    """A N^-(alpha + k ln S) S^-beta: a power law whose powers lean on one another."""
    return np.exp(p[0] - p[1] * at.n - p[2] * at.s - p[3] * at.n * at.s)


def additive(p: Array, at: Points) -> Array:
    """E + A N^-alpha + B S^-beta + C U^-gamma."""
    return chinchilla(p, at) + np.exp(p[5] - p[6] * at.u)


def effective(p: Array, at: Points) -> Array:
    """E + A N^-alpha + B D^-beta, where repeated images count less and less.

    D = U (1 + R (1 - exp(-r / R))) after r repetitions, and S before the first. It cannot rise with
    length.
    """
    worth = np.exp(p[5])
    repeated = np.log1p(-worth * np.expm1(-np.maximum(at.repeats - 1, 0) / worth))
    seen = at.u + np.minimum(np.log(at.repeats), 0) + repeated
    return np.exp(p[0]) + np.exp(p[1] - p[2] * at.n) + np.exp(p[3] - p[4] * seen)


def bounded(p: Array, at: Points) -> Array:
    """E + (L0 - E) h / (1 + h), h = a N^-alpha + b S^-beta + c N^gamma / U^delta."""
    h = (
        np.exp(p[2] - p[3] * at.n)
        + np.exp(p[4] - p[5] * at.s)
        + np.exp(p[6] + p[7] * at.n - p[8] * at.u)
    )
    return np.exp(p[0]) + np.exp(p[1]) * h / (1 + h)


def saturating(p: Array, at: Points) -> Array:
    """Chinchilla + K x / (1 + x), x = c N^gamma S^tau / U^delta: rises, then levels off."""
    return by_excess(chinchilla(p[:5], at), p[6] + p[7] * at.n + p[8] * at.s - p[9] * at.u, p[5])


def by_ratios(p: Array, at: Points) -> Array:
    """Logarithm of x = c (N/U)^gamma (S/U)^tau: parameters an image, and epochs."""
    return p[0] + p[1] * (at.n - at.u) + p[2] * (at.s - at.u)


def by_work(p: Array, at: Points) -> Array:
    """Logarithm of x = c (N S / U^2)^tau: the same with one power."""
    return p[0] + p[1] * (at.n + at.s - 2 * at.u)


def by_excess(loss: Array, x: Array, height: Array) -> Array:
    """Loss + K x / (1 + x)."""
    return loss + np.exp(height) / (1 + np.exp(-x))


def to_ceiling(loss: Array, x: Array, height: Array) -> Array:
    """Loss + (C - loss) x / (1 + x): a network that knows its images by heart has loss C."""
    return loss + np.maximum(np.exp(height) - loss, 0) / (1 + np.exp(-x))


_CHINCHILLA = {"E": FLOOR, "A": AMPLITUDE, "alpha": POWER, "B": AMPLITUDE, "beta": POWER}
_IMAGES = {"D": (-9.0, 0.0), "epsilon": (0.3, 3.0)}
_BASES: dict[str, tuple[Function, Ranges]] = {
    "Kaplan": (
        kaplan,
        {"A": (-8.0, 3.0), "alpha": (0.02, 4.0), "B": (-8.0, 3.0), "beta": (0.02, 4.0)}
        | {"c": (0.01, 2.0)},
    ),
    "power law": (
        power_law,
        {"A": (-2.0, 2.0), "alpha": (0.0, 1.0), "beta": (0.0, 1.0), "k": (-0.1, 0.1)},
    ),
}
_ONSETS: dict[str, tuple[Function, Ranges]] = {
    "N/U, S/U": (by_ratios, {"c": ONSET, "gamma": STEEP, "tau": STEEP}),
    "NS/U^2": (by_work, {"c": ONSET, "tau": STEEP}),
}
_HEIGHTS = {"excess": (by_excess, {"K": EXCESS}), "ceiling": (to_ceiling, {"C": CEILING})}


def _composed(base: str, onset: str, height: str) -> Form:
    (low, base_ranges), (x, onset_ranges), (rise, top) = (
        _BASES[base],
        _ONSETS[onset],
        _HEIGHTS[height],
    )
    i = len(base_ranges)
    j = i + len(_IMAGES)

    def loss(p: Array, at: Points) -> Array:
        endless = low(p[:i], at) + np.exp(p[i] - p[i + 1] * at.u)
        return rise(endless, x(p[j:-1], at), p[-1])

    over = {f"x.{name}": limits for name, limits in onset_ranges.items()}
    return Form(
        f"{base}, {onset}, {height}", "ours", {**base_ranges, **_IMAGES, **over, **top}, loss
    )


FORMS = (
    Form("Chinchilla", "Hoffmann et al. 2022", _CHINCHILLA, chinchilla),
    Form(
        "additive", "an image term added", {**_CHINCHILLA, "C": AMPLITUDE, "gamma": POWER}, additive
    ),
    Form(
        "effective samples", "Muennighoff et al. 2023", {**_CHINCHILLA, "R": (-2.0, 6.0)}, effective
    ),
    Form(
        "bounded",
        "Bryant and Liu 2026",
        {"E": FLOOR, "L0-E": (-4.0, 3.0), "a": AMPLITUDE, "alpha": POWER, "b": AMPLITUDE}
        | {"beta": POWER, "c": ONSET, "gamma": STEEP, "delta": STEEP},
        bounded,
    ),
    Form(
        "saturating",
        "ours",
        {**_CHINCHILLA, "K": EXCESS, "c": ONSET, "gamma": STEEP, "tau": STEEP, "delta": STEEP},
        saturating,
    ),
    *(_composed(*names) for names in product(_BASES, _ONSETS, _HEIGHTS)),
)
"""From the plainest on."""

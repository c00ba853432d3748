"""Each form against its equation, written out in plain numbers."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlabel.scaling.forms import FORMS, Form, Points

MIDDLE = (50.0, 1000.0, 20_000.0)


def plain(p: dict, n: float, s: float) -> float:
    return exp(p["E"]) + exp(p["A"]) / n ** p["alpha"] + exp(p["B"]) / s ** p["beta"]


def bounded(p: dict, n: float, u: float, s: float) -> float:
    h = exp(p["a"]) / n ** p["alpha"] + exp(p["b"]) / s ** p["beta"]
    h += exp(p["c"]) * n ** p["gamma"] / u ** p["delta"]
    return exp(p["E"]) + exp(p["L0-E"]) * h / (1 + h)


def effective(p: dict, n: float, u: float, s: float) -> float:
    images, seen = u * MIDDLE[1], s * MIDDLE[2]
    unique = min(seen, images)  # as in Muennighoff et al.: images that were seen at all
    repeats, worth = seen / unique - 1, exp(p["R"])
    worth_of_all = unique + unique * worth * (1 - exp(-repeats / worth))
    return plain(p, n, worth_of_all / MIDDLE[1])


def saturating(p: dict, n: float, u: float, s: float) -> float:
    x = exp(p["c"]) * n ** p["gamma"] * s ** p["tau"] / u ** p["delta"]
    return plain(p, n, s) + exp(p["K"]) * x / (1 + x)


PUBLISHED = {
    "Chinchilla": lambda p, n, u, s: plain(p, n, s),
    "additive": lambda p, n, u, s: plain(p, n, s) + exp(p["C"]) / u ** p["gamma"],
    "effective samples": effective,
    "bounded": bounded,
    "saturating": saturating,
}
BASES = {
    "Kaplan": lambda p, n, s: (
        (exp(p["A"]) / n ** p["alpha"] + exp(p["B"]) / s ** p["beta"]) ** p["c"]
    ),
    "power law": lambda p, n, s: (
        exp(p["A"]) * n ** -(p["alpha"] + p["k"] * log(s)) * s ** -p["beta"]
    ),
}
ONSETS = {
    "N/U, S/U": lambda p, n, u, s: (n / u) ** p["x.gamma"] * (s / u) ** p["x.tau"],
    "NS/U^2": lambda p, n, u, s: (n * s / u**2) ** p["x.tau"],
}


def composed(name: str, p: dict, n: float, u: float, s: float) -> float:
    base, onset, height = next(
        (b, o, name.rpartition(", ")[2]) for b in BASES for o in ONSETS if f"{b}, {o}, " in name
    )
    endless = BASES[base](p, n, s) + exp(p["D"]) / u ** p["epsilon"]
    x = exp(p["x.c"]) * ONSETS[onset](p, n, u, s)
    rise = exp(p["K"]) if height == "excess" else max(exp(p["C"]) - endless, 0)
    return endless + rise * x / (1 + x)


def points(n: float, u: float, s: float) -> Points:
    """One place, by model, images and samples over the middle."""
    repeats = s * MIDDLE[2] / (u * MIDDLE[1])
    return Points(*(np.array([log(v)]) for v in (n, u, s)), np.array([repeats]))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@given(st.data())
def test_a_form_is_its_equation(form: Form, data: st.DataObject):
    p = {
        name: data.draw(st.floats(*np.clip(limits, -4, 3)), label=name)
        for name, limits in form.ranges.items()
    }
    most = {"n": 3, "u": 60, "s": 3}  # up to three times as many images as were seen
    n, u, s = (data.draw(st.floats(0.3, most[axis]), axis) for axis in "nus")
    if form.name in PUBLISHED:
        expected = PUBLISHED[form.name](p, n, u, s)
    else:
        expected = composed(form.name, p, n, u, s)
    found = form.loss(np.array(list(p.values())), points(n, u, s))
    assert found == pytest.approx([expected], rel=1e-9)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_many_parameter_sets_at_once_are_as_each_alone(form: Form):
    rng = np.random.default_rng(0)
    sets = rng.uniform(form.low, form.high, (4, len(form.low)))
    at = Points(*rng.normal(size=(3, 6)), np.exp(rng.normal(size=6)))
    together = form.loss(sets.T[..., None], at)
    assert together == pytest.approx(np.array([form.loss(p, at) for p in sets]))

"""What is said of gains, by their intervals alone."""

from __future__ import annotations

import pytest

from unlabel.scaling.outlook import Gain, Place
from unlabel.scaling.wording import whether_enough, which_brings_most

PLACE = Place("m", 1.0, 1000.0, 5000.0)
REFUSED = Gain(float("nan"), float("nan"), float("nan"), "too far")


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        (
            {"a": (0.05, -0.01, 0.11), "b": (0.02, 0.01, 0.03)},
            "Doubling b lowers it; a",
        ),
        ({"a": (-0.001, -0.002, -0.0001), "b": (-0.01, -0.05, 0.03)}, "The data cannot tell"),
        ({"a": (-0.1, -0.2, -0.01), "b": (-0.01, -0.02, -0.001)}, "None of them"),
        ({"a": (0.1, 0.08, 0.12), "b": (0.02, 0.01, 0.03)}, "Doubling a brings most."),
        ({"a": (0.1, 0.08, 0.12), "b": (0.02, 0.01, 0.03), "c": None}, "Of those, doubling a"),
        ({"a": None, "b": None}, None),
        ({"a": (0.1, 0.08, 0.12), "b": None}, None),
    ],
)
def test_which_brings_most(gains, said):
    known = {what: Gain(*ends) if ends else REFUSED for what, ends in gains.items()}
    found = which_brings_most(known)
    assert found is None if said is None else str(found).startswith(said)


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (Gain(0.03, 0.01, 0.06), ", no: "),
        (Gain(0.002, 0.001, 0.003), ", yes: "),
        (Gain(-0.02, -0.03, -0.01), ", yes: twice the 1,000 images would take at most 0.0 %"),
        (Gain(0.03, 0.001, 0.06), "the data cannot tell"),
        (REFUSED, "the data cannot tell: too far"),
    ],
)
def test_whether_there_are_enough(gain: Gain, said: str):
    assert said in whether_enough(PLACE, gain)

"""Gains and runs in words, with their numbers and intervals."""

from __future__ import annotations

from collections.abc import Mapping

from unlabel.report.text import duration
from unlabel.scaling.budget import Option
from unlabel.scaling.outlook import Gain, Place

HARDLY = 0.005
"""Share of the loss below which a change counts as none (the margin of `findings`)."""


def percent(gain: Gain) -> str:
    """A gain in per cent of the loss, and the ends of its interval."""
    return f"{100 * gain.middle:.1f} % ({100 * gain.low:.1f} to {100 * gain.high:.1f})"


def told(gain: Gain) -> str:
    """What a change does to the loss."""
    doubt = f" ({gain.note})" if gain.note else ""
    if gain.low > 0:
        return f"{percent(gain)} of the loss away{doubt}"
    if gain.high < 0:
        return f"{percent(Gain(-gain.middle, -gain.high, -gain.low))} more loss{doubt}"
    return f"{percent(gain)}, which may be nothing{doubt}"


def whether_enough(place: Place, gain: Gain) -> str:
    """Whether a model has enough images, where ``gain`` is what twice as many would bring."""
    head = f"For {place.model} after {place.samples:,.0f} images seen"
    twice = f"twice the {place.images:,.0f} images"
    if gain.why_not:
        return f"{head} the data cannot tell: {gain.why_not}."
    if gain.low > HARDLY:
        return f"{head}, no: {twice} would take {percent(gain)} of its loss away."
    if gain.high < HARDLY:
        most = 100 * max(gain.high, 0)
        return f"{head}, yes: {twice} would take at most {most:.1f} % of its loss away."
    return f"{head} the data cannot tell: {twice} would bring {percent(gain)}."


def which_brings_most(gains: Mapping[str, Gain]) -> str | None:
    """The change with the largest gain, and those that cannot be told from it.

    Returns:
        ``None`` where the fit speaks of one change at most: there is nothing to choose from.
    """
    known = {what: gain for what, gain in gains.items() if not gain.why_not}
    if len(known) < 2:
        return None
    if all(gain.high <= 0 for gain in known.values()):
        return "None of them would lower it."
    sure = {what: gain for what, gain in known.items() if gain.low > 0}
    if not sure:
        return "The data cannot tell whether any of them would lower it."
    first = max(sure, key=lambda what: sure[what].middle)
    head = "Doubling" if len(known) == len(gains) else "Of those, doubling"
    rivals = [what for what in known if what != first and known[what].high >= sure[first].low]
    if not rivals:
        return f"{head} {first} brings most."
    return f"{head} {first} lowers it; {' and '.join(rivals)} may bring as much."


def described(option: Option) -> str:
    """A run that could be bought."""
    place = option.place
    passes = place.samples / place.images
    return (
        f"{place.model} for {place.samples:,.0f} images seen ({passes:,.3g} passes, "
        f"{duration(3600 * option.hours)}): loss {option.loss:.4g} ({option.low:.4g} to "
        f"{option.high:.4g})"
    )

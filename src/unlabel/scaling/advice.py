"""``unlabel study advise``: what a table of runs says should be done next, in plain sentences.

Every sentence has its numbers and a 95 % interval, or says why the data cannot tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape

from unlabel.errors import DataError, UsageError
from unlabel.report.text import duration
from unlabel.scaling.budget import FARTHEST, HOUR, Prices, best_options
from unlabel.scaling.downstream import Downstream
from unlabel.scaling.findings import Findings
from unlabel.scaling.fit import Fit
from unlabel.scaling.outlook import Gain, Outlook, Place
from unlabel.scaling.predict import PREDICTED
from unlabel.scaling.table import (
    LOSS,
    MOVING,
    SAME,
    accuracies,
    levelled,
    main_source,
    read_runs,
)
from unlabel.scaling.teaching import next_run
from unlabel.scaling.wording import described, told, whether_enough, which_brings_most

LITTLE = 0.01
"""Share by which the most telling run must narrow the answers, to be named."""


@dataclass(frozen=True)
class Section:
    """A question and what there is to say."""

    title: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Advice:
    """The sections of each method."""

    by_method: dict[str, list[Section]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for method, sections in self.by_method.items():
            if len(self.by_method) > 1:
                yield f"[bold]{escape(method)}[/bold]"
            for section in sections:
                yield f"[bold]{escape(section.title)}[/bold]"
                yield from (f"  {escape(sentence)}" for sentence in section.sentences)


def advise_on(table: Path, *, hours: float | None = None, images: int | None = None) -> Advice:
    """Advice on a table of runs, a study's or anybody's.

    Args:
        table: as `read_runs` takes it.
        hours: what could be spent on one more run, on the machine that trained these.
        images: how many there are or could be; those of the table when not given.

    Raises:
        InputMissing: there is no table.
        UsageError: hours or images are not above 0, or the table does not say how long runs took.
        DataError: the table cannot be used.
    """
    for name, value in (("--budget", hours), ("--images", images)):
        if value is not None and not value > 0:
            raise UsageError(f"{name} {value:g}: must be above 0.")
    runs = read_runs(table)
    if hours is not None and not Prices.known(runs):
        raise UsageError(f"--budget needs a column seconds, which {table} has not.")
    methods = runs.groupby("method", sort=False)
    return Advice({str(m): Adviser(rows).sections(hours, images) for m, rows in methods})


class Adviser:
    """One method's runs, ready to be asked about.

    Attributes:
        models: each model on the most images for the longest, the smallest model first.
        outlook: what the fit says; ``None`` where there are too few runs for one.
        why_not: why there is none.
    """

    def __init__(self, runs: pd.DataFrame) -> None:
        """``runs`` are of one method; those of further sources of images serve the fit alone."""
        self.runs = levelled(runs[runs["source"] == main_source(runs)])
        self.most = float(self.runs["unique_images"].max())
        sizes = self.runs.groupby("model")["params_m"].first().sort_values()
        longest = float(self.runs["samples_seen"].max())
        self.models = [Place(str(m), float(n), self.most, longest) for m, n in sizes.items()]
        self.prices = Prices(self.runs) if Prices.known(self.runs) else None
        self.outlook, self.why_not = None, ""
        try:
            self.outlook = Outlook(Fit(runs))
        except DataError as error:
            self.why_not = str(error)

    def sections(self, hours: float | None = None, images: int | None = None) -> list[Section]:
        """Question by question; the arguments are those of `advise_on`."""
        measured = Section("What was measured", tuple(self._measured()))
        if (outlook := self.outlook) is None:
            return [measured, Section("What cannot be said", (self.why_not,))]
        models = [model._replace(images=float(images or self.most)) for model in self.models]
        best = [self._best_length(outlook, model) for model in models]
        leader = min(best, key=lambda found: found[1])[0]
        found = {
            f"With {leader.images:,.0f} images": self._supposing(outlook, leader),
            "Are there enough images?": (
                whether_enough(place, outlook.gain(place, place.more_images())) for place, _ in best
            ),
            "What would doubling bring?": self._doubling(outlook, leader),
            f"The best use of {hours or 0:g} hours": self._spending(outlook, models, hours),
            "Which run would teach most next?": self._teaching(outlook, leader),
        }
        asked = {title: tuple(sentences) for title, sentences in found.items()}
        return [measured, *(Section(title, said) for title, said in asked.items() if said)]

    def _measured(self) -> Iterator[str]:
        """The best run, and what the last increase of the images brought to it."""
        if self.runs[MOVING].any():
            yield (
                "The loss is measured against a network that learns as well: a lower one need not "
                "mean better features. Go by the downstream figures."
            )
        means = self.runs.groupby(["unique_images", "model", "samples_seen"])[LOSS].mean()
        at_most = means.loc[self.most]
        model, samples = at_most.idxmin()
        yield (
            f"On {self.most:,.0f} images the lowest loss is {at_most.min():.4g}, by {model} after "
            f"{samples:,.0f} images seen."
        )
        same = means.xs((model, samples), level=("model", "samples_seen")).sort_index()
        if len(same) > 1:
            fewer, gain = same.index[-2], 1 - same.iloc[-1] / same.iloc[-2]
            change = f"took {100 * gain:.1f} % away" if gain > 0 else f"added {-100 * gain:.1f} %"
            yield (
                f"The same run on {fewer:,.0f} images came to {same.iloc[-2]:.4g}: "
                f"{self.most / fewer:.3g} times the images {change}."
            )

    def _best_length(self, outlook: Outlook, model: Place) -> tuple[Place, float]:
        """The model's run of lowest loss among the table's lengths, and that loss.

        Measured where the table has the model on these images, else predicted.
        """
        means = self._losses_on(model.images)
        own = means[means.index.get_level_values("model") == model.model]
        if len(own):
            return model._replace(samples=float(own.idxmin()[1])), float(own.min())
        places = [model._replace(samples=float(s)) for s in self.runs["samples_seen"].unique()]
        losses = outlook.losses(places)["val_loss_predicted"].fillna(np.inf).to_numpy()
        return places[int(losses.argmin())], float(losses.min())

    def _losses_on(self, images: float) -> pd.Series:
        """Measured losses by model and images seen, means over seeds."""
        rows = self.runs[(self.runs["unique_images"] / images).between(1 / SAME, SAME)]
        return rows.groupby(["model", "samples_seen"])[LOSS].mean()

    def _supposing(self, outlook: Outlook, leader: Place) -> Iterator[str]:
        """What other images than the table's most would make of the best run."""
        if leader.images == self.most:
            return
        run = f"{leader.model} after {leader.samples:,.0f} images seen"
        measured = self._losses_on(leader.images)
        if len(measured):
            yield f"The lowest loss that was measured is {measured.min():.4g}, by {run}."
        else:
            loss, low, high, why = outlook.losses([leader])[list(PREDICTED)].iloc[0]
            if not np.isfinite(loss):
                yield f"Nothing can be said: {why}."
                return
            yield (
                f"The best of the table's runs would be {run}: loss {loss:.4g} ({low:.4g} to "
                f"{high:.4g})."
            )
        gain = outlook.gain(leader._replace(images=self.most), leader)
        yield f"Against the same on {self.most:,.0f} images: {told(gain)}."

    def _doubling(self, outlook: Outlook, leader: Place) -> Iterator[str]:
        """For the best run."""
        changes = {
            "the images": leader.more_images(),
            "the model": leader.larger(),
            "the length": leader.longer(),
        }
        gains = {what: outlook.gain(leader, after) for what, after in changes.items()}
        yield (
            f"From {leader.model} on {leader.images:,.0f} images for {leader.samples:,.0f} images "
            "seen:"
        )
        known = {what: gain for what, gain in gains.items() if not gain.why_not}
        for what, gain in sorted(known.items(), key=lambda item: -item[1].middle):
            yield f"Doubling {what}{self._cost(leader, changes[what])}: {told(gain)}."
        unknown: dict[str, list[str]] = {}
        for what, gain in gains.items():
            if what not in known:
                unknown.setdefault(gain.why_not, []).append(what)
        for why, whats in unknown.items():
            yield f"Doubling {' or '.join(whats)}: nothing is said, because {why}."
        if most := which_brings_most(gains):
            yield most
        if known:
            best = max(known, key=lambda what: known[what].middle)
            if not (outlook.overfits(leader) or outlook.overfits(changes[best])):
                yield from self._downstream(outlook, leader, best, known[best])

    def _downstream(self, outlook: Outlook, leader: Place, what: str, gain: Gain) -> Iterator[str]:
        """What a lower loss is worth downstream, which runs that do not overfit tell of others."""
        loss = float(outlook.losses([leader])["val_loss_predicted"].iloc[0])
        overfit = Findings.of(self.runs).overfit
        for column in accuracies(self.runs):
            line = Downstream.of(self.runs, overfit, column)
            if line.why_not() is None and line.falls_with_loss:
                points = line.change(loss, gain.low, gain.middle, gain.high) * 100 / line.top
                yield (
                    f"For {column}, doubling {what} would be about {points[0]:+.1f} points "
                    f"({points[1]:+.1f} to {points[2]:+.1f})."
                )

    def _cost(self, before: Place, after: Place) -> str:
        if self.prices is None or not np.isfinite(hours := self.prices.hours(after)):
            return ""
        times = hours / self.prices.hours(before)
        than = f", {times:.2g} times this one" if abs(times - 1) > 0.05 else ""
        return f" (a run of {duration(HOUR * hours)}{than})"

    def _spending(
        self, outlook: Outlook, models: list[Place], hours: float | None
    ) -> Iterator[str]:
        """What the hours buy, beside the best run that there is on these images."""
        if hours is None or self.prices is None:
            return
        longest = float(self.runs["samples_seen"].max())
        options = best_options(outlook, [*models, models[-1].larger()], self.prices, hours)
        if not options:
            yield self._why_nothing(outlook, models, self.prices, hours)
            return
        first, *others = options
        yield f"Train {described(first)}."
        if first.hours < 0.99 * hours and first.place.samples > 0.99 * FARTHEST * longest:
            yield (
                f"The other {duration(HOUR * (hours - first.hours))} are left: the fit speaks of "
                f"lengths up to {FARTHEST:g} times the table's longest."
            )
        for other in others:
            head = "It cannot be told from" if other.low <= first.high else "It is better than"
            yield f"{head} {described(other)}."
        measured = self._losses_on(first.place.images)
        if len(measured) and first.loss >= measured.min():
            yield "That is no better than the best run that there is: keep the hours."
        elif len(measured) and first.high >= measured.min():
            yield (
                "It cannot be told from the best run that there is, whose loss is "
                f"{measured.min():.4g}."
            )

    def _why_nothing(
        self, outlook: Outlook, models: list[Place], prices: Prices, hours: float
    ) -> str:
        """Why the hours buy no run that the fit speaks of."""
        shortest = float(self.runs["samples_seen"].min())
        cheapest = min(
            (model._replace(samples=shortest) for model in models), key=lambda m: prices.hours(m)
        )
        if (least := prices.hours(cheapest)) > hours:
            return (
                f"They buy no run: the cheapest model takes {duration(HOUR * least)} for the "
                "table's shortest length."
            )
        why = outlook.losses([cheapest])["val_loss_note"].iloc[0]
        return f"The fit says nothing of the runs that they buy: {why}."

    def _teaching(self, outlook: Outlook, leader: Place) -> Iterator[str]:
        questions = [leader.more_images(), leader.larger(), leader.longer()]
        models = [*self.models, self.models[-1].larger()]
        if all(outlook.gain(leader, place).why_not for place in questions):
            yield self._how_to_differ()
            return
        lesson = next_run(outlook, leader, questions, models, self.prices)
        if lesson is None or lesson.narrower < LITTLE:
            yield "None: what is unknown is not what one more run would settle."
            return
        place = lesson.place
        facts = [duration(HOUR * lesson.hours)] if np.isfinite(lesson.hours) else []
        if "steps" in self.runs:
            batch = (self.runs["samples_seen"] / self.runs["steps"]).median()
            if np.isfinite(batch):
                facts.insert(0, f"{place.samples / batch:,.0f} steps")
        costs = f" ({', '.join(facts)})" if facts else ""
        yield (
            f"{place.model} on {place.images:,.0f} images for {place.samples:,.0f} images seen"
            f"{costs}: its loss would narrow what is said of doubling by about "
            f"{100 * lesson.narrower:.0f} %."
        )

    def _how_to_differ(self) -> str:
        """What would make a table, of which the fit says nothing, tell more."""
        means = self.runs.groupby(["unique_images", "model", "samples_seen"])[LOSS].mean()
        spread = 100 * (means.max() / means.min() - 1)
        return (
            f"No single run: the highest loss is {spread:.1f} % above the lowest, and the fit "
            "says nothing of doubling. Runs that differ more would tell more: several times as "
            "long, on fewer of the images, by a larger model."
        )

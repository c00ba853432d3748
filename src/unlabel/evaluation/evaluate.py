"""Every subject by every protocol at every number of labels, on the same images and seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unlabel.data.store import Store
from unlabel.errors import DataError, UsageError
from unlabel.evaluation.results import PROTOCOLS, Result, Results
from unlabel.evaluation.sets import LabelledSets
from unlabel.evaluation.settings import EvaluationConfig
from unlabel.evaluation.subjects import Subject
from unlabel.evaluation.trial import Trial
from unlabel.machine import this_machine
from unlabel.memory import kept_memory

BY_CHANCE = ("linear-sgd", "finetune")
"""Protocols whose outcome depends on the seed even when the labels are the same."""


def evaluate(
    subjects: Mapping[str, Subject],
    train: Store,
    test: Store | None = None,
    settings: EvaluationConfig | None = None,
    *,
    device: torch.device | str | None = None,
    progress: bool = True,
    found: Callable[[Result], None] = lambda _: None,
) -> Results:
    """Measure every subject; images without a label are left out.

    Args:
        subjects: by the name that results and tables show, in the order of columns.
        train: labelled images to learn from.
        test: labelled images to measure on. When not given, the splits "train" and "test" of
            ``train`` are used, and without them a stratified fifth is set apart by the seed.
        settings: protocols, numbers of labels, seeds and budgets; the defaults when not given.
        device: where to compute; the machine's accelerator, or else its processor.
        progress: whether to show a progress bar on standard error.
        found: called with each figure as soon as it is measured.

    Raises:
        UsageError: no subject takes part in any of the protocols.
        DataError: there are no labels, the test set has classes that training lacks, all training
            images are test images, or a network takes other images than these.
    """
    settings = settings or EvaluationConfig()
    sets = LabelledSets.of(train, test, settings.seed)
    device = torch.device(device or this_machine().device)
    plan = _plan(subjects, sets, settings)
    _refuse_other_channels(subjects, sets)
    results = Results()
    length = sum(len(seeds) for *_, seeds in plan)
    with kept_memory(device.type), _bar(length, progress) as advance:
        for name, subject in subjects.items():
            trial = Trial(subject, sets, settings, device)
            seen = sets.seen_by(subject.learnt_from)
            for protocol, size, seeds in [kind[1:] for kind in plan if kind[0] == name]:
                correct = []
                for seed in seeds:
                    correct.append(trial.predict(protocol, sets.subset(size, seed), seed))
                    advance(f"{name}: {PROTOCOLS[protocol]}, {size}")
                result = Result.of(
                    name,
                    protocol,
                    size,
                    (torch.stack(correct) == sets.truth).numpy(),
                    train_images=len(sets.subset(size, seeds[0])),
                    test=sets.test.fingerprint,
                    seen=seen,
                    details=trial.details(protocol, len(sets.subset(size, seeds[0]))),
                )
                results.add(result)
                found(result)
    return results


Kind = tuple[str, str, str, range]
"""Subject, protocol, labels and seeds."""


def _plan(
    subjects: Mapping[str, Subject], sets: LabelledSets, settings: EvaluationConfig
) -> list[Kind]:
    """Everything that will be measured, in order."""
    plan: list[Kind] = [
        (name, protocol, size, _seeds(protocol, size, sets, settings))
        for name, subject in subjects.items()
        for protocol in settings.protocols
        if protocol in subject.protocols
        for size in settings.labels
    ]
    if not plan:
        asked = ", ".join(settings.protocols) or "no protocol"
        raise UsageError(f"None of the {len(subjects)} subjects can be measured by {asked}.")
    return plan


def _refuse_other_channels(subjects: Mapping[str, Subject], sets: LabelledSets) -> None:
    """Raise DataError, before anything is measured, for a network that takes other images."""
    has = sets.train.info.channels
    for name, subject in subjects.items():
        if subject.channels not in (None, has):
            raise DataError(
                f"{name} takes images of {subject.channels} channels, and these have {has}. "
                "Compare networks that take the same images."
            )


def _seeds(protocol: str, size: str, sets: LabelledSets, settings: EvaluationConfig) -> range:
    """Seeds that a figure is measured with: one where the others would give the same."""
    count = settings.seeds
    if sets.is_all(size):
        count = settings.seeds_all if protocol in BY_CHANCE else 1
    return range(settings.seed, settings.seed + count)


@contextmanager
def _bar(total: int, show: bool) -> Iterator[Callable[[str], None]]:
    """A progress bar on standard error; what it yields advances it by one and names what ran."""
    columns = (TextColumn("Evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(
        *columns, TextColumn("{task.description}"), console=Console(stderr=True), disable=not show
    )
    with bar:
        task = bar.add_task("", total=total)
        yield lambda what: bar.update(task, advance=1, description=what)

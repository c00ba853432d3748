"""What a study is to be: the grid that was asked for, and the runs that it comes to.

Nothing here trains. A plan is complete: it is written into the study's folder, and a study that is
continued follows it to the letter, on whichever machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, field_validator

from unlabel.config import PretrainConfig, Settings

T = TypeVar("T")

OWN = ("data", "method", "model.name", "steps", "epochs", "seed", "rows", "keep", "validation_seed")
"""Settings that a study gives its runs itself."""


def _all_different(values: tuple[T, ...]) -> tuple[T, ...]:
    if not values:
        raise ValueError("give at least one")
    if twice := [value for value, count in Counter(values).items() if count > 1]:
        raise ValueError(f"{twice[0]} is given twice")
    return values


def _increasing(values: tuple[Any, ...]) -> tuple[Any, ...]:
    _all_different(values)
    if list(values) != sorted(values):
        raise ValueError("must increase: the smallest first")
    return values


Names = Annotated[tuple[str, ...], AfterValidator(_all_different)]


class StudyConfig(Settings):
    """The grid, as it was asked for."""

    data: Path
    """The store."""
    models: Names
    """Models by name."""
    fractions: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...], AfterValidator(_increasing)
    ] = (0.1, 0.2, 0.5, 1.0)
    """Shares of the images to learn from; smaller ones lie in larger ones."""
    lengths: Annotated[tuple[Annotated[int, Field(ge=1)], ...], AfterValidator(_increasing)]
    """Updates of the weights."""
    methods: Names = ("simmim",)
    """Methods by name."""
    seeds: int = Field(1, ge=1, le=1000)
    """Repetitions, from seed 0."""
    protocols: tuple[Literal["knn", "linear", "finetune"], ...] = ("knn", "linear")
    """How every network is measured where there are labels."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Dotted settings of every run."""

    @field_validator("settings")
    @classmethod
    def _not_its_own(cls, settings: dict[str, Any]) -> dict[str, Any]:
        for name in settings:
            if name in OWN:
                raise ValueError(f"{name} is the study's to set, by its own options")
        if settings.get("batch_size") == "auto":
            raise ValueError("batch_size: auto differs from model to model; give a number")
        return settings


class Cost(Settings):
    """What a run of one method and model takes on the machine that planned it."""

    step: float
    """Seconds of one update."""
    look: float
    """Seconds of one look at the held-out images, and of the checkpoint after it."""
    checkpoint: int
    """Bytes of a checkpoint."""
    parameters: int
    """Of the backbone."""


class PlannedRun(Settings):
    """One run of the grid. Its name is its folder's."""

    name: str
    model: str
    fraction: float
    method: str
    seed: int
    config: PretrainConfig
    trunk: str | None = None
    """The longer run that it begins as."""
    shared: int = 0
    """Updates of the trunk that are its own as well."""

    @property
    def own_steps(self) -> int:
        """Updates that are its alone, and must be computed for it."""
        return self.config.steps - self.shared

    @property
    def kind(self) -> str:
        """What its cost is known by."""
        return f"{self.method} {self.model}"


class Plan(Settings):
    """All runs of a study in the order in which they are trained, trunks before their branches."""

    asked: StudyConfig
    fingerprint: str
    """Of the store's images."""
    dataset: str
    """The store's name."""
    images: dict[float, int]
    """Unique images of each fraction."""
    held_out: int
    """Images that every run is judged by."""
    runs: tuple[PlannedRun, ...]
    notes: tuple[str, ...] = ()
    """What the user should know of it."""
    costs: dict[str, Cost] = Field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Updates to compute in all."""
        return sum(run.own_steps for run in self.runs)

    @property
    def steps_alone(self) -> int:
        """Updates to compute if every run were trained alone."""
        return sum(run.config.steps for run in self.runs)

    def branches_of(self, trunk: PlannedRun) -> list[PlannedRun]:
        """The runs that begin as ``trunk``."""
        return [run for run in self.runs if run.trunk == trunk.name]

    def seconds(self, runs: Sequence[PlannedRun] | None = None) -> float:
        """How long ``runs``, all of them when not given, will take one after another."""
        chosen = self.runs if runs is None else runs
        return sum(seconds_of(run, self.costs[run.kind]) for run in chosen)

    @property
    def bytes(self) -> int:
        """Disk that it takes at most: two checkpoints a run, and one where each branch begins."""
        held = ((2 + len(run.config.keep)) * self.costs[run.kind].checkpoint for run in self.runs)
        return sum(held)


def seconds_of(run: PlannedRun, cost: Cost) -> float:
    """How long a run takes: its own updates and its looks."""
    looks = 1 + run.config.evaluations * run.own_steps / run.config.steps
    return run.own_steps * cost.step + looks * cost.look

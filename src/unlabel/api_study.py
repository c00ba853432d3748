"""The verbs of a study: ``unlabel study`` and the commands below it.

``unlabel study fit`` is ``study_fit`` here and ``unlabel.study_fit`` in Python. What is heavy is
imported inside the verbs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from unlabel.api import File, Many, Set, settings_of
from unlabel.errors import UsageError

Names = Annotated[tuple[str, ...], Many]


def study(
    data: File | None = None,
    *,
    models: Names = (),
    fractions: Annotated[tuple[float, ...], Many] = (0.1, 0.2, 0.5, 1.0),
    lengths: Annotated[tuple[int, ...], Many] = (),
    methods: Names = ("simmim",),
    seeds: int = 1,
    schedule: Literal["step", "constant", "cosine"] | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    out: File | None = None,
    resume: File | None = None,
    dry_run: bool = False,
    settings: Set = (),
) -> Path:
    """Train every model on every share of the images for every length, and table what came out.

    The plan is shown before it starts: runs, steps, time and disk. Runs that differ only in length
    share what they have in common. Give the same command again to continue a study that was
    stopped.

    Parameters
    ----------
    data
        A store, or a folder of images (ingested into a cache first).
    models
        Names of models, as of ``unlabel pretrain --model``.
    fractions
        Shares of the images to learn from, above 0 and at most 1; smaller ones lie in larger ones.
    lengths
        Updates of the weights, the shortest first.
    methods
        How to learn, by name.
    seeds
        Repetitions, from seed 0.
    schedule
        Of the learning rate; that of the method's recipe when not given. step and constant let
        runs of different lengths share their beginning.
    batch_size
        Images of one update; the same in all runs.
    image_size
        Side of the square training crop in pixels.
    out
        The study's folder; runs/NAME-study when not given.
    resume
        Continue this study. Needs nothing else.
    dry_run
        Show the plan and do nothing.
    settings
        Any setting of docs/settings.md for all runs, as NAME=VALUE: optim.lr=1e-3. Repeat it.
    """
    settings_of(settings)
    raise UsageError("unlabel study does not run yet.")

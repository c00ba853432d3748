"""The verbs of a study: ``unlabel study`` and the commands below it.

``unlabel study fit`` is ``study_fit`` here and ``unlabel.study_fit`` in Python. What is heavy is
imported inside the verbs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from unlabel.arguments import File, Many, Set, settings_of
from unlabel.errors import UsageError
from unlabel.memory import uncollected

if TYPE_CHECKING:
    from unlabel.scaling.advice import Advice
    from unlabel.scaling.fits import Fits
    from unlabel.study.folder import Study
    from unlabel.study.status import Status
else:  # the command line evaluates these hints, and must not pay for what they name
    Advice = Fits = Study = Status = object

Names = Annotated[tuple[str, ...], Many]


def study(
    data: File | None = None,
    *,
    models: Names = (),
    fractions: Annotated[tuple[float, ...], Many] = (),
    lengths: Annotated[tuple[int, ...], Many] = (),
    methods: Names = (),
    seeds: int | None = None,
    schedule: Literal["step", "constant", "cosine"] | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    protocols: Annotated[tuple[Literal["knn", "linear", "finetune"], ...], Many] = (),
    out: File | None = None,
    on: Literal["ray"] | None = None,
    resume: File | None = None,
    status: File | None = None,
    dry_run: bool = False,
    settings: Set = (),
) -> Study | Status | None:
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
        0.1 0.2 0.5 1 when not given.
    lengths
        Updates of the weights, the shortest first.
    methods
        How to learn, by name; simmim when not given.
    seeds
        Repetitions, from seed 0; 1 when not given.
    schedule
        Of the learning rate; that of the method's recipe when not given. With step and constant,
        runs of different lengths share their beginning.
    batch_size
        Images of one update; the same in all runs.
    image_size
        Side of the square training crop in pixels.
    protocols
        How every network is measured where there are labels; knn linear when not given. finetune
        may take as long as the runs.
    out
        The study's folder; runs/NAME-study when not given.
    on
        "ray" trains on a Ray cluster, as many runs at once as it holds, instead of one after
        another here.
    resume
        Continue this study. Takes nothing else, but for --on.
    status
        Only print how far this study is, as ``unlabel study status`` does. Takes nothing else.
    dry_run
        Show the plan and do nothing.
    settings
        Any setting of docs/settings.md for all runs, as NAME=VALUE: optim.lr=1e-3. Repeat it.
    """
    named = {
        "optim.schedule": schedule,
        "batch_size": batch_size,
        "model.image_size": image_size,
    }
    chosen = {name: value for name, value in named.items() if value is not None}
    grid: dict[str, Any] = {
        "models": models,
        "fractions": fractions,
        "lengths": lengths,
        "methods": methods,
        "seeds": seeds,
        "protocols": protocols,
        "settings": {**settings_of(settings), **chosen},
    }
    given = {name: value for name, value in grid.items() if value not in (None, (), {})}
    if status is not None:
        if any((data, given, out, on, resume, dry_run)):
            raise UsageError("--status names a study that is there: give it alone.")
        return study_status(status)
    if resume is not None:
        if any((data, given, out, dry_run)):
            raise UsageError("--resume continues a study as it was planned: give it alone.")
        with uncollected():
            from unlabel.study.folder import Study
            from unlabel.study.start import continue_study

        return continue_study(Study.open(Path(resume)), on_ray=on == "ray")
    if data is None:
        raise UsageError("Name the images to learn from: unlabel study STORE --models ...")
    with uncollected():
        from unlabel.study.start import start_study

    folder = Path(out) if out else None
    return start_study(str(data), given, folder, dry_run=dry_run, on_ray=on == "ray")


def study_status(study: File) -> Status:
    """Print how far a study is, and how long it has left.

    Parameters
    ----------
    study
        The study's folder; another process may be at work on it.
    """
    from unlabel.study.folder import Study
    from unlabel.study.status import Status

    return Status.of(Study.open(Path(study)))


def study_fit(
    table: File,
    *,
    predict: File | None = None,
    out: File | None = None,
    json: File | None = None,
    exclude_dataset: Names = (),
) -> Fits:
    """Fit the loss as a function of model, data and length to a table of runs, anybody's.

    Says which runs overfit, from how many images on a larger model pays, what the losses tell of
    the features, and how well each form predicts runs that it has not seen. docs/study-fits.md
    explains.

    Parameters
    ----------
    table
        A study's folder, or a .csv or .parquet with a row a run: model, params_m, unique_images,
        samples_seen, val_loss.
    predict
        Rows without losses: what would these runs come to?
    out
        Where to write those rows with val_loss_predicted, val_loss_low and val_loss_high.
    json
        Where to write everything that was found, every form's parameters with their intervals too.
    exclude_dataset
        Data sets to leave out.
    """
    from unlabel.scaling.fits import fit_table

    return fit_table(
        _table_of(table),
        to_predict=Path(predict) if predict else None,
        out=Path(out) if out else None,
        json_out=Path(json) if json else None,
        exclude=exclude_dataset,
    )


def study_advise(study: File, *, budget: float | None = None, images: int | None = None) -> Advice:
    """Say what to do next: more images, a larger model, longer training, or nothing.

    Every figure comes with its 95 % interval; where the runs cannot tell, that is said. It stands
    on ``unlabel study fit``, which docs/study-fits.md explains.

    Parameters
    ----------
    study
        The study's folder, or a table of runs as of ``unlabel study fit``.
    budget
        Hours that could be spent on one more run, on the machine that trained these: GPU-hours
        where that was a GPU.
    images
        How many images there could be, instead of those of the table.
    """
    from unlabel.scaling.advice import advise_on

    return advise_on(_table_of(study), hours=budget, images=images)


def _table_of(given: File) -> Path:
    """The table itself, or that of the study whose folder was given."""
    from unlabel.study.folder import Study

    path = Path(given)
    return Study.open(path).table if path.is_dir() else path

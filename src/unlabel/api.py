"""The verbs: each is a function here and a command of the same name and options.

What is heavy is imported inside the verbs, so that ``unlabel --help`` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from unlabel.arguments import File, Many, Set, settings_of
from unlabel.config import nested
from unlabel.errors import UsageError
from unlabel.memory import uncollected
from unlabel.methods import method_names

if TYPE_CHECKING:
    from unlabel.data.ingest import IngestReport
    from unlabel.data.saliency.kinds import Kind
    from unlabel.evaluation.results import Results
    from unlabel.machine import Machine
    from unlabel.saliency import Written
    from unlabel.training.run import Run
else:  # the command line evaluates these hints, and must not pay for what they name
    IngestReport = Kind = Results = Machine = Run = Written = object

Method = Annotated[str | None, Parameter(help=f"How to learn: {', '.join(method_names())}.")]
Segments = Literal["felzenszwalb"] | None


def ingest(
    *sources: File,
    out: File,
    short_side: int | None = None,
    labels: str = "auto",
    dedupe: bool = False,
    against: Annotated[tuple[File, ...], Many] = (),
    saliency: str | None = None,
    segments: Segments = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> IngestReport:
    """Read images once, verify them, and write the store that everything else reads.

    Parameters
    ----------
    sources
        Folders, image files, .tar shards, NumPy arrays, ``hf:NAME`` or ``torchvision:NAME``.
    out
        The store to write: a new folder.
    short_side
        Shrink larger images to this shorter side in pixels, near what you will train at.
    labels
        "auto" and "folders" take folder names, "none" takes none, FILE.csv:COLUMN joins a table.
    dedupe
        Keep only the first of exact and near duplicates.
    against
        Stores to look in for the same images: a training set and an evaluation set must not share.
    saliency
        Also make foreground masks of this kind; see ``unlabel saliency``.
    segments
        Also cut every image into segments of like colour, for DetCon.
    workers
        Processes that decode; one a core when not given.
    overwrite
        Replace OUT if it is there.
    """
    from unlabel.data.ingest import ingest as run_ingest

    kinds = _kinds(saliency, segments)
    report = run_ingest(
        [str(source) for source in sources],
        Path(out),
        short_side=short_side,
        labels=labels,
        dedupe=dedupe,
        against=[Path(store) for store in against],
        workers=workers,
        overwrite=overwrite,
    )
    if kinds:
        from unlabel.saliency import write_layers_of_new

        report.layers = write_layers_of_new(Path(out), kinds, workers)
    return report


def saliency(
    data: File,
    *,
    kind: str | None = None,
    segments: Segments = None,
    preview: bool = False,
    workers: int | None = None,
    overwrite: bool = False,
) -> Written:
    """Find the foreground of every image, for methods that remove backgrounds (RELICv2).

    Masks stand beside the images in the store and are made once; docs/saliency.md says which kind
    suits which images. Look at them before you train: --preview.

    Parameters
    ----------
    data
        A store, or a folder of images (ingested into a cache first).
    kind
        background or spectral, which need no weights; attention:RUN_OR_FOLDER, a backbone of your
        own; onnx:FILE, a U2-Net or IS-Net.
    segments
        Cut every image into segments of like colour, for DetCon; without a kind, that alone.
    preview
        Write a page of images, masks and results into the store: saliency.html.
    workers
        Processes; one a core when not given.
    overwrite
        Replace masks that are there.
    """
    with uncollected():
        from unlabel.saliency import saliency as make

    return make(str(data), kind, segments, preview=preview, workers=workers, overwrite=overwrite)


def pretrain(
    *data: File,
    method: Method = None,
    model: str | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int | Literal["auto"] | None = None,
    image_size: int | None = None,
    patch_size: int | None = None,
    weights: str | None = None,
    seed: int | None = None,
    out: File | None = None,
    resume: File | None = None,
    recipe: File | None = None,
    settings: Set = (),
    overwrite: bool = False,
) -> Run:
    """Pre-train a backbone on unlabelled images.

    What is not given follows documented rules and is printed with its reason. The run's folder
    holds the settings, every step's figures, checkpoints, the verdict, the exported backbone
    (``export/``, which timm loads) and the page ``report.html``.

    Parameters
    ----------
    data
        A store, or folders of images (ingested into a cache first).
    method
        How to learn, by name; docs/methods has a card of each.
    model
        A timm ViT, SwinV2 or ResNet, or one of unlabel's own sizes (vit_nano, swinv2_s, ...).
    steps
        Updates of the weights.
    epochs
        Passes over the images, instead of steps.
    batch_size
        Images of one update; "auto" finds the largest that the accelerator's memory holds.
    image_size
        Side of the square training crop in pixels.
    patch_size
        Side of a patch in pixels.
    weights
        Start from "timm" (its pretrained weights) or a local file instead of at random.
    seed
        Everything that is random follows from it; 0 when not given.
    out
        The run's folder; runs/NAME-METHOD when not given.
    resume
        Continue this run from its last checkpoint. Needs nothing else.
    recipe
        A YAML file of settings to start from.
    settings
        Any setting of docs/settings.md, as NAME=VALUE: optim.lr=1e-3, options.flip=0. Repeat it.
        From Python a dict of names and values will do.
    overwrite
        Replace the run in OUT.
    """
    options = {
        "method": method,
        "model.name": model,
        "model.image_size": image_size,
        "model.patch_size": patch_size,
        "model.weights": weights,
        "steps": steps,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if resume is not None:
        if any((*data, *given, out, recipe, settings, overwrite)):
            raise UsageError(
                "--resume continues a run with its own settings: give it alone. To change a "
                "setting, start a new run."
            )
        return _continue(_open(resume))
    from unlabel.asked import check, merged
    from unlabel.data.processes import start_server

    asked = {**given, **settings_of(settings)}
    folder, file = (None if path is None else Path(path) for path in (out, recipe))
    wanted = merged(asked, file)
    if wanted.get("workers") != 0:
        start_server()  # before torch is imported here
    with uncollected():
        check(wanted, folder, overwrite)
        from unlabel.pretraining import start_run

    sources = [str(source) for source in data]
    return start_run(sources, asked, out=folder, recipe=file, overwrite=overwrite)


def evaluate(
    run: File,
    *,
    data: File,
    test: File | None = None,
    protocols: Annotated[tuple[Literal["knn", "linear", "linear-sgd", "finetune"], ...], Many] = (
        "knn",
        "linear",
        "finetune",
    ),
    labels: Annotated[tuple[str, ...], Many] = ("1%", "10%", "all"),
    seeds: int = 3,
    compare: Annotated[tuple[File, ...], Many] = (),
    settings: Set = (),
) -> Results:
    """Measure a run's backbone on labelled images, beside the honest baselines.

    The same network untrained, the same network trained with labels only and raw pixels always
    stand beside it. Figures come with 95 % intervals, go to the run's ``results.json`` and onto
    its page.

    Parameters
    ----------
    run
        The run's folder (from Python, the run itself will do).
    data
        Labelled images: a store or a folder with a sub-folder a class. Sub-folders named train
        and test are used as such; otherwise a fifth is set apart for testing.
    test
        Labelled test images that stand elsewhere.
    protocols
        knn, linear (L-BFGS on features), linear-sgd, finetune.
    labels
        How many labels to learn from: "5" a class, "10%", "all".
    seeds
        Repetitions with other labels, orders and heads.
    compare
        Other runs, timm names or local weight files that stand beside the run.
    settings
        Any setting of docs/settings.md, as NAME=VALUE: finetune.steps=500, k=10. Repeat it.
    """
    opened = _open(run)
    with uncollected():
        from unlabel.config import validated
        from unlabel.evaluating import conclusions, evaluate_run
        from unlabel.evaluation.settings import EvaluationConfig
        from unlabel.terminal import console

    asked = {"protocols": protocols, "labels": labels, "seeds": seeds, **settings_of(settings)}
    chosen = validated(EvaluationConfig, nested(asked), "The evaluation's settings")
    others = [str(other) for other in compare]
    results = evaluate_run(opened, str(data), str(test) if test else None, chosen, others)
    for sentence in conclusions(results):
        console.print(sentence, markup=False)
    return results


def export(run: File, *, out: File | None = None, overwrite: bool = False) -> Path:
    """Write a run's backbone as a folder that timm loads.

    ``timm.create_model("local-dir:OUT", pretrained=True)`` gives the same features.

    Parameters
    ----------
    run
        The run's folder (from Python, the run itself will do).
    out
        Where to write; ``export/`` in the run's folder when not given.
    overwrite
        Replace OUT if it is there.
    """
    opened = _open(run)
    with uncollected():
        from unlabel.pretraining import export_run

    return export_run(opened, Path(out) if out else None, overwrite=overwrite)


def embed(run: File, *data: File, out: File, overwrite: bool = False) -> Path:
    """Write one feature vector an image as Parquet: name, label and vector.

    Parameters
    ----------
    run
        The run's folder (from Python, the run itself will do).
    data
        A store, or folders of images.
    out
        The Parquet file to write.
    overwrite
        Replace OUT if it is there.
    """
    opened = _open(run)
    with uncollected():
        from unlabel.evaluating import embed_images

    return embed_images(opened, [str(d) for d in data], Path(out), overwrite=overwrite)


def report(run: File) -> Path:
    """Write the page of a run, or of a study, anew: one self-contained HTML file.

    Parameters
    ----------
    run
        The run's folder (from Python, the run itself will do), or a study's, finished or not.
    """
    from unlabel.study.folder import Study

    if isinstance(run, str | Path) and Study.is_at(Path(run)):
        from unlabel.study.page import write_study_page

        return write_study_page(Study.open(Path(run)))
    opened = _open(run)
    from unlabel.report.page import write_report

    return write_report(opened.path)


def demo(
    *, out: File = Path("runs/demo"), steps: int | None = None, overwrite: bool = False
) -> Run:
    """Do the main job on 5,000 real digits that a package ships: pre-train, evaluate, report.

    Parameters
    ----------
    out
        The run's folder.
    steps
        Updates of the weights; when not given, what two cores do in about three minutes.
    overwrite
        Replace OUT if it is there.
    """
    with uncollected():
        from unlabel.demo import run_demo

    return run_demo(Path(out), steps, overwrite=overwrite)


def doctor() -> Machine:
    """Print what this machine can do, and which optional packages are there."""
    from unlabel.doctor import examine

    return examine()


def _kinds(saliency: str | None, segments: str | None) -> dict[str, Kind]:
    """The kinds of masks that are asked for; a typo is told before hours of ingest."""
    if saliency is None and segments is None:
        return {}
    from unlabel.saliency import find_kinds

    return find_kinds(saliency, segments)


def _continue(run: Run) -> Run:
    from unlabel.data.processes import start_server

    if run.config.workers:
        start_server()  # before torch is imported here
    with uncollected():
        from unlabel.pretraining import continue_run

    return continue_run(run)


def _open(run: File) -> Run:
    """A run by its folder; an opened run is a path as well."""
    from unlabel.training.run import Run

    return Run.open(run)

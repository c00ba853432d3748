"""The verbs ``evaluate`` and ``embed``: a run's backbone on images, beside its baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from unlabel.backbones.build import LOCAL, build_backbone
from unlabel.config import ModelConfig, validated
from unlabel.data.cache import open_or_ingest
from unlabel.data.images import Images
from unlabel.data.store import Store
from unlabel.errors import DataError, InputMissing, OutputExists
from unlabel.evaluation.evaluate import evaluate
from unlabel.evaluation.features import extract
from unlabel.evaluation.results import Result, Results
from unlabel.evaluation.settings import EvaluationConfig
from unlabel.evaluation.subjects import Subject, labels_only, pretrained, raw_pixels, untrained
from unlabel.machine import this_machine
from unlabel.pretraining import load_backbone
from unlabel.report.gains import gains
from unlabel.report.page import write_report
from unlabel.report.scores import read_scores, tables
from unlabel.terminal import console
from unlabel.training.run import Run
from unlabel.training.split import split_store

RESULTS = "results.json"


def evaluate_run(
    run: Run, data: str, test: str | None, settings: EvaluationConfig, compare: Sequence[str] = ()
) -> Results:
    """Measure a run beside its baselines, and add the figures to its folder and page.

    Each figure is written as soon as it is known: what a stopped evaluation measured stays.

    Raises:
        DataError: there are no labels, or images are in both sets.
    """
    train = open_or_ingest([data])
    held = open_or_ingest([test]) if test else None
    path = run.path / RESULTS
    all_of_run = Results.load(path) if path.is_file() else Results()

    def keep(result: Result) -> None:
        all_of_run.add(result)
        all_of_run.save(path)
        if not console.is_terminal:  # a bar shows how far it is where there is one
            console.print(str(result), markup=False)

    results = evaluate(subjects(run, compare), train, held, settings, found=keep)
    write_report(run.path)
    return results


def conclusions(results: Results) -> list[str]:
    """Sentences on where what was measured first is clearly better than the rest, and where not."""
    scores = read_scores([result.as_dict() for result in results])
    return [
        f"{table.title}, {scores[0].subject}. {sentence}"
        for table in tables(scores)
        for sentence in gains(results, table, scores[0].subject)
    ]


def subjects(run: Run, compare: Sequence[str] = ()) -> dict[str, Subject]:
    """The run's backbone first, then its honest baselines, then what else was named."""
    backbone = load_backbone(run)
    found = {
        f"pre-trained ({run.config.method})": pretrained(backbone, _learnt_from(run)),
        "untrained": untrained(backbone, seed=run.config.seed),
        "labels only": labels_only(backbone),
        "raw pixels": raw_pixels(backbone.image_size),
    }
    for name in compare:
        if (Path(name) / "config.yaml").is_file():
            other = Run.open(Path(name))
            named = other.path.resolve().name
            named = name if named in found else named
            found[named] = pretrained(load_backbone(other), _learnt_from(other))
        else:
            found[name] = _other(name, run.config.model)
    return found


def _learnt_from(run: Run) -> Store | None:
    """The images that a run learnt from; with a notice ``None`` if they are no longer there."""
    began_with = run.facts.get("data", {}).get("fingerprint")
    try:
        if began_with in (None, Store.open(run.config.data).fingerprint):
            return split_store(run.config)[0]
    except (InputMissing, DataError):
        pass
    console.print(
        f"Whether test images are among those that {run.path} learnt from is not known: "
        f"{run.config.data} no longer holds them."
    )
    return None


def _other(name: str, model: ModelConfig) -> Subject:
    """A timm model by name, an exported folder, or the run's architecture with a file's weights.

    Raises:
        InputMissing: ``name`` is a path at which there is neither a run, an export nor a file.
    """
    path = Path(name.removeprefix(LOCAL))
    if path.is_file():
        other = model.model_copy(update={"weights": name})
    elif (path / "config.json").is_file():
        other = ModelConfig(name=f"{LOCAL}{path}")
    elif path.name != name:
        raise InputMissing(
            f"--compare {name}: there is no run, no exported folder and no file of weights there."
        )
    else:
        other = validated(ModelConfig, {"name": name, "weights": "timm"}, name)
    return pretrained(build_backbone(other))


def embed_images(run: Run, data: Sequence[str], out: Path, *, overwrite: bool = False) -> Path:
    """Write name, label and feature vector of every image as a Parquet file."""
    if out.exists() and not overwrite:
        raise OutputExists(f"{out} is there already. Choose another --out, or add --overwrite.")
    out.parent.mkdir(parents=True, exist_ok=True)
    store = open_or_ingest(data)
    backbone, info = load_backbone(run), store.info
    if info.channels != backbone.in_chans:
        raise DataError(
            f"{run.path} was trained on images of {backbone.in_chans} channels; these have "
            f"{info.channels}."
        )
    images = Images(store, backbone.image_size)
    features = extract(
        pretrained(backbone), images, mean=info.mean, std=info.std, device=this_machine().device
    )
    vectors = features.cpu().numpy()
    classes, labels = info.classes, store.labels
    named = [None if i < 0 else classes[i] for i in labels] if labels is not None else None
    table = pa.table(
        {
            "name": store.names(),
            "label": pa.array(named or [None] * len(store), pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.reshape(-1)), vectors.shape[1]
            ),
        }
    )
    temporary = out.with_name(f".{out.name}.part")
    parquet.write_table(table, temporary)
    temporary.replace(out)
    return out

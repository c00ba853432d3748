"""The verbs ``evaluate`` and ``embed``: a run's backbone on images, beside its baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig, validated
from unlabel.data.cache import open_or_ingest
from unlabel.data.images import Images
from unlabel.data.store import Store
from unlabel.errors import DataError, OutputExists
from unlabel.evaluation.evaluate import evaluate
from unlabel.evaluation.features import extract
from unlabel.evaluation.results import Results
from unlabel.evaluation.settings import EvaluationConfig
from unlabel.evaluation.subjects import Subject, labels_only, pretrained, raw_pixels, untrained
from unlabel.machine import this_machine
from unlabel.pretraining import load_backbone
from unlabel.report.page import write_report
from unlabel.training.run import Run

RESULTS = "results.json"


def evaluate_run(
    run: Run, data: str, test: str | None, settings: EvaluationConfig, compare: Sequence[str] = ()
) -> Results:
    """Measure a run beside its baselines, and add the figures to its folder and page.

    Raises:
        DataError: there are no labels, or images are in both sets.
    """
    train = open_or_ingest([data])
    held = open_or_ingest([test]) if test else None
    results = evaluate(subjects(run, compare), train, held, settings)
    path = run.path / RESULTS
    earlier = Results.load(path) if path.is_file() else Results()
    earlier.merge(results).save(path)
    write_report(run.path)
    return results


def subjects(run: Run, compare: Sequence[str] = ()) -> dict[str, Subject]:
    """The run's backbone first, then its honest baselines, then what else was named."""
    config = run.config
    trained = _trained(run)
    start = config.model.model_copy(update={"drop_path": 0.0})
    found = {
        f"pre-trained ({config.method})": trained,
        "untrained": untrained(start, seed=config.seed),
        "labels only": labels_only(start),
        "raw pixels": raw_pixels(trained.image_size),
    }
    for name in compare:
        if (Path(name) / "config.yaml").is_file():
            other = Run.open(Path(name))
            found[f"{other.path.name} ({other.config.method})"] = _trained(other)
        else:
            found[name] = _other(name, config.model)
    return found


def _trained(run: Run) -> Subject:
    """A run's backbone, with the statistics of the images that it learnt from."""
    info = Store.open(run.config.data).info
    return pretrained(load_backbone(run), mean=info.mean, std=info.std)


def _other(name: str, model: ModelConfig) -> Subject:
    """A timm model by name, or the run's architecture with the weights of a local file."""
    if Path(name).is_file():
        other = model.model_copy(update={"weights": name})
    else:
        weights = None if name.startswith("local-dir:") else "timm"
        other = validated(ModelConfig, {"name": name, "weights": weights}, name)
    backbone = build_backbone(other)
    return pretrained(backbone, mean=backbone.mean, std=backbone.std)


def embed_images(run: Run, data: Sequence[str], out: Path, *, overwrite: bool = False) -> Path:
    """Write name, label and feature vector of every image as a Parquet file."""
    if out.exists() and not overwrite:
        raise OutputExists(f"{out} is there already. Choose another --out, or add --overwrite.")
    out.parent.mkdir(parents=True, exist_ok=True)
    store = open_or_ingest(data)
    info = Store.open(run.config.data).info
    if store.info.channels != info.channels:
        raise DataError(
            f"{run.path} was trained on images of {info.channels} channels; these have "
            f"{store.info.channels}."
        )
    subject = _trained(run)
    images = Images(store, subject.image_size)
    vectors = (
        extract(subject, images, mean=info.mean, std=info.std, device=this_machine().device)
        .cpu()
        .numpy()
    )
    classes, labels = store.info.classes, store.labels
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

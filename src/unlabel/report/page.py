"""The page of a run: one HTML file that needs nothing else and asks nothing of the network.

What the run's folder lacks (results, labels, a verdict) is said in a sentence; nothing in it can
stop the page.
"""

from __future__ import annotations

import base64
import itertools
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from unlabel.atomic import write_text_atomic
from unlabel.errors import InputMissing, OutputExists
from unlabel.report.curves import Curve, read_curves
from unlabel.report.figures import GLYPHS, other_figures, run_figures, score_figure
from unlabel.report.gains import gains, load_results
from unlabel.report.scores import describe, read_scores, subjects, tables
from unlabel.report.shell import assets, environment, script_json
from unlabel.report.text import flatten, plain

STATES = ("improving", "saturated", "overfitting", "collapsed", "diverged")
"""Verdicts that have a look of their own; any other is shown as unclear."""
PREVIEWS = 24
"""Most preview images on a page."""
PREVIEW_BYTES = 4_000_000
"""Largest preview image, in bytes."""


@dataclass(frozen=True)
class Preview:
    """An embedded image."""

    name: str
    source: str


def write_report(run_folder: Path, overwrite: bool = True) -> Path:
    """Write ``report.html`` into a run's folder, whole or not at all.

    Args:
        run_folder: a run, finished or not.
        overwrite: replace a page that is there.

    Returns:
        The page's path.

    Raises:
        InputMissing: there is no such folder.
        OutputExists: there is a page and it must stay.
        StorageError: the disk is full or not writable.
    """
    folder = Path(run_folder)
    page = folder / "report.html"
    if not folder.is_dir():
        raise InputMissing(f"{folder} is not a run's folder. `unlabel pretrain` makes one.")
    if page.exists() and not overwrite:
        raise OutputExists(f"{page} is there already, and nothing is overwritten unasked.")
    write_text_atomic(page, render(folder))
    return page


def render(folder: Path) -> str:
    """The page of the run in ``folder``, as HTML."""
    curves = read_curves(folder / "metrics.jsonl")
    train, monitor = curves.get("train", {}), curves.get("monitor", {})
    scores = read_scores(_json(folder / "results.json"))
    score_tables = tables(scores)
    measured = load_results(folder / "results.json")
    palette = {name: place for place, name in enumerate(subjects(scores))}
    count = itertools.count()
    sections = {
        name: [(f"figure-{next(count)}", figure) for figure in figures]
        for name, figures in (
            ("results", [score_figure(table, palette) for table in score_tables]),
            ("run", run_figures(train, monitor)),
            ("other", other_figures(train, monitor)),
        )
    }
    config, facts = _settings(folder / "config.yaml"), _mapping(folder / "run.json")
    settings = _explained(config, facts)
    return environment().get_template("page.html").render(
        assets(),
        name=folder.resolve().name,
        folder=str(folder),
        intro=[*_introduction(config, facts), _progress(config, train)],
        verdict=_verdict(folder / "verdict.json"),
        tables=[(t, gains(measured, t, scores[0].subject)) for t in score_tables],
        warnings=measured.warnings(),
        scores=scores,
        palette=palette,
        glyphs=GLYPHS,
        describe=describe,
        sections=sections,
        figures=script_json({key: f.spec for group in sections.values() for key, f in group}),
        previews=_previews(folder / "previews"),
        chosen=[row for row in settings if row[2]],
        given=[row for row in settings if not row[2]],
        dim=_section(facts, "model").get("dim"),
        environment=flatten(_section(facts, "environment")),
        data=flatten(_section(facts, "data")),
        exported=(folder / "export").is_dir(),
        again=_command(config, folder),
    )  # fmt: skip


def _json(path: Path) -> Any:
    """What a JSON file holds; ``None`` where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _mapping(path: Path) -> dict[str, Any]:
    value = _json(path)
    return value if isinstance(value, dict) else {}


def _section(facts: dict[str, Any], name: str) -> dict[str, Any]:
    value = facts.get(name)
    return value if isinstance(value, dict) else {}


def _settings(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def _verdict(path: Path) -> dict[str, Any] | None:
    value = _mapping(path)
    if not value.get("headline"):
        return None
    return {
        "state": value["state"] if value.get("state") in STATES else "unclear",
        "headline": str(value["headline"]),
        "why": _sentences(value.get("why")),
        "next": _sentences(value.get("next")),
    }


def _sentences(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else [str(value)] if value else []


def _introduction(config: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    """Short facts under the title: method, data, network."""
    data, model = _section(facts, "data"), _section(facts, "model")
    parts = []
    if config.get("method"):
        parts.append(f"{config['method']} on {data.get('name') or config.get('data')}")
    if isinstance(data.get("images"), int):
        parts.append(f"{data['images']:,} images")
    name = flatten(config).get("model.name")
    if isinstance(model.get("parameters"), int):
        parts.append(f"{name or 'network'}, {_millions(model['parameters'])} parameters")
    elif name:
        parts.append(name)
    return parts


def _millions(count: int) -> str:
    return f"{count / 1e6:.3g} million" if count >= 1_000_000 else f"{count:,}"


def _progress(config: dict[str, Any], train: dict[str, Curve]) -> str:
    """How far the run came."""
    steps = config.get("steps")
    if "loss" not in train:
        return "No step was logged."
    done = int(train["loss"].steps[-1]) + 1
    return f"{done:,} of {steps:,} steps" if isinstance(steps, int) else f"{done:,} steps"


def _explained(config: dict[str, Any], facts: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Every setting with its value and, where a rule chose it, why."""
    reasons = {str(k): str(v) for k, v in _section(facts, "reasons").items()}
    values = flatten(config)
    rows = [
        (name, value, reasons.get(name, "").removeprefix(f"{value}: "))
        for name, value in values.items()
    ]
    return rows + [(name, "", why) for name, why in reasons.items() if name not in values]


def _command(config: dict[str, Any], folder: Path) -> str:
    words = (
        "unlabel pretrain", config.get("data", "IMAGES"),
        "--recipe", folder / "config.yaml", "--out", f"{folder}-again",
    )  # fmt: skip
    return " ".join([words[0], *(shlex.quote(plain(str(word))) for word in words[1:])])


def _previews(folder: Path) -> list[Preview]:
    """The PNG files of ``folder``, embedded; what is large or no PNG is left out."""
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.glob("*.png"))[:PREVIEWS]:
        if not path.is_file() or path.stat().st_size > PREVIEW_BYTES:
            continue
        data = path.read_bytes()
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
            found.append(Preview(path.stem.replace("_", " ").replace("-", " "), source))
    return found

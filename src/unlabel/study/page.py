"""The page of a study: ``report.html`` in its folder, which needs nothing else."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from unlabel.atomic import write_text_atomic
from unlabel.report.figures import GLYPHS, Figure
from unlabel.report.shell import assets, environment, script_json
from unlabel.report.text import number, plain
from unlabel.scaling.advice import Adviser
from unlabel.scaling.charts import accuracy_figures, length_figures, scaling_figures
from unlabel.scaling.findings import Findings
from unlabel.scaling.fit import Fit
from unlabel.scaling.fits import EDGES
from unlabel.scaling.table import LOSS, accuracies, read_runs
from unlabel.study.folder import Study
from unlabel.study.plan import StudyConfig

Rows = list[list[str]]
GROUPS = ("lengths", "scaling", "accuracy")
"""Keys of a method's figures."""


def write_study_page(study: Study) -> Path:
    """Write the page of a study, finished or not, in place of an earlier one.

    Raises:
        StorageError: the disk is full or not writable.
    """
    page = study.path / "report.html"
    write_text_atomic(page, render(study))
    return page


def render(study: Study) -> str:
    """The page as HTML."""
    runs = read_runs(study.table) if study.rows() else None
    models = dict.fromkeys(run.model for run in study.plan.runs)
    palette = {model: place for place, model in enumerate(models)}
    parts = []
    if runs is not None:
        parts = [_method(str(m), rows, palette) for m, rows in runs.groupby("method", sort=False)]
    drawn = _numbered(parts)
    return environment().get_template("study.html").render(
        assets(),
        name=study.path.resolve().name,
        intro=_introduction(study),
        failed=list(_failed(study)),
        methods=parts,
        palette=palette,
        glyphs=GLYPHS,
        figures=script_json(drawn),
        runs=[] if runs is None else _runs(runs),
        again=_command(study.plan.asked, study.path),
    )  # fmt: skip


def _method(method: str, runs: pd.DataFrame, palette: dict[str, int]) -> dict[str, Any]:
    """What the page shows of one method's runs."""
    findings, adviser = Findings.of(runs), Adviser(runs)
    outlook = adviser.outlook
    return {
        "method": method,
        "advice": adviser.sections(),
        "lengths": length_figures(findings, palette),
        "accuracy": accuracy_figures(findings, palette),
        "scaling": scaling_figures(outlook, adviser.models, palette) if outlook else [],
        "errors": _errors(outlook.fit) if outlook else [],
        "refused": list(_refused(outlook.fit)) if outlook else [],
        "correlations": _correlations(findings),
        "best": _best(findings),
        "crossovers": findings.crossovers,
    }


def _numbered(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Give every figure its name, in place; their specifications by these names."""
    count = itertools.count()
    specs: dict[str, Any] = {}
    for part, group in itertools.product(parts, GROUPS):
        figures: list[Figure] = part[group]
        part[group] = [(f"figure-{next(count)}", figure) for figure in figures]
        specs |= {name: figure.spec for name, figure in part[group]}
    return specs


def _introduction(study: Study) -> list[str]:
    plan = study.plan
    ended = len(plan.runs) - len(study.left())
    return [
        f"{', '.join(plan.asked.methods)} on {plan.dataset}",
        f"{max(plan.images.values()):,} images to learn from, {plan.held_out:,} held out",
        f"{ended} of {len(plan.runs)} runs have ended",
    ]


def _failed(study: Study) -> Iterator[str]:
    for run in study.plan.runs:
        outcome = study.outcome(run.name)
        if outcome and outcome["state"] == "failed":
            yield f"{run.name} failed: {outcome['reason']}"


def _errors(fit: Fit) -> Rows:
    """Held-out errors of the fit beside those of the baselines."""
    edges = [edge for edge in EDGES if edge in fit.errors]
    rows = [["", *(EDGES[edge] for edge in edges)]]
    rows.append(["the fit", *(f"{100 * fit.errors[edge]:.1f} %" for edge in edges)])
    rows += (
        [name, *(f"{100 * fit.baselines[edge][name]:.1f} %" for edge in edges)]
        for name in ("nearest known run", "median")
    )
    return rows


def _refused(fit: Fit) -> Iterator[str]:
    for why in fit.refusals.values():
        yield f"Nothing is said there: {why}."


def _correlations(findings: Findings) -> Rows:
    head = ["figure", "loss", "runs", "Pearson's r", "95 % interval", "Spearman's"]
    rows = [
        [
            c.figure,
            c.loss,
            f"{c.which} ({c.runs})",
            f"{c.r:+.2f}",
            f"{c.low:+.2f} to {c.high:+.2f}",
            f"{c.rank:+.2f}",
        ]
        for c in findings.correlations
    ]
    return [head, *rows]


def _best(findings: Findings) -> Rows:
    head = ["images", "by", "best run", "value", "next model", "its best"]
    rows = [
        [
            f"{b.unique_images:,.0f}",
            b.column,
            f"{b.model}, {b.samples_seen:,.0f} seen",
            number(b.value),
            b.other or "",
            number(b.other_value) if b.other else "",
        ]
        for b in findings.best
    ]
    return [head, *rows]


def _runs(runs: pd.DataFrame) -> Rows:
    columns = {
        "model": "model",
        "method": "method",
        "unique_images": "images",
        "samples_seen": "images seen",
        "epochs": "passes",
        "seed": "seed",
        "train_loss": "training loss",
        LOSS: "held-out loss",
        **{name: name for name in accuracies(runs)},
        "rankme": "RankMe",
        "lidar": "LiDAR",
        "alpha_req": "alpha-ReQ",
        "seconds": "seconds",
    }
    there = [name for name in columns if name in runs]
    return [
        [columns[name] for name in there],
        *([_cell(value) for value in row] for row in runs[there].itertuples(index=False)),
    ]


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if pd.isna(value) else number(float(value))


def _command(asked: StudyConfig, folder: Path) -> str:
    """The command line that asked for the study."""
    words: list[Any] = [asked.data, "--models", *asked.models, "--fractions", *asked.fractions]
    words += ["--lengths", *asked.lengths, "--methods", *asked.methods]
    words += ["--seeds", asked.seeds, "--protocols", *asked.protocols]
    for name, value in asked.settings.items():
        words += ["--set", f"{name}={value}"]
    words += ["--out", folder]
    return " ".join(["unlabel study", *(shlex.quote(plain(str(word))) for word in words)])

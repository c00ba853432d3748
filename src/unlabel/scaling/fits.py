"""``unlabel study fit``: the fits of a table's methods, what they are worth, and predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table

from unlabel.atomic import write_text_atomic
from unlabel.errors import DataError, OutputExists, UsageError
from unlabel.scaling.downstream import Downstream
from unlabel.scaling.findings import Findings
from unlabel.scaling.fit import INSIDE, OVERFIT, Fit
from unlabel.scaling.predict import PREDICTED, predict
from unlabel.scaling.table import (
    KIND,
    UNNAMED,
    accuracies,
    main_source,
    read_runs,
    read_table,
    sources,
    write_runs,
)

EDGES = {
    "model high": "largest model",
    "length high": "longest runs",
    "data low": "least data",
    INSIDE: "a fifth in turn",
}


class Fits:
    """One fit a method, and what the runs themselves show.

    Attributes:
        by_method: the fits.
        refused: why there is no fit, of the other methods.
        findings: what shows without a fit.
        downstream: for each method, a line from the loss for each downstream figure.
    """

    def __init__(self, runs: pd.DataFrame) -> None:
        """``runs`` are as `read_runs` gives them."""
        self.by_method: dict[str, Fit] = {}
        self.refused: dict[str, str] = {}
        for name, rows in runs.groupby("method", sort=False):
            try:
                self.by_method[str(name)] = Fit(rows)
            except DataError as error:
                self.refused[str(name)] = str(error)
        self.findings = Findings.of(runs)
        self.downstream: dict[str, list[Downstream]] = {}
        for method in self.by_method:
            rows = runs[runs["method"] == method]
            overfit = self.findings.overfit[rows.index]
            self.downstream[method] = [
                Downstream.of(rows, overfit, column) for column in accuracies(rows)
            ]

    @property
    def predicted(self) -> list[str]:
        """Columns that `predict` adds: losses, and the downstream figures that follow from them."""
        figures = {
            line.column: None
            for lines in self.downstream.values()
            for line in lines
            if not line.why_not()
        }
        return [*PREDICTED, *(name for column in figures for name in _columns(column))]

    def predict(self, wanted: pd.DataFrame) -> pd.DataFrame:
        """The rows with predicted losses, and figures where a row does not overfit.

        Where the table has one method, rows need not name it.

        Raises:
            DataError: the table has no runs of a row's method, or too few.
        """
        methods = [*self.by_method, *self.refused]
        parts = []
        for method, rows in wanted.groupby("method", sort=False):
            name = methods[0] if method == "any" and len(methods) == 1 else str(method)
            if name in self.refused:
                raise DataError(f"{name}: {self.refused[name]}")
            if name not in self.by_method:
                there = ", ".join(methods)
                raise DataError(f"The table has no runs of method {method}; it has: {there}.")
            rows = self._of_known_sources(name, rows)
            parts.append(self._with_figures(name, predict(self.by_method[name], rows)))
        return (
            pd.concat(parts)
            .loc[wanted.index]
            .reindex(
                columns=[*wanted.columns.difference(self.predicted, sort=False), *self.predicted]
            )
        )

    def _of_known_sources(self, method: str, wanted: pd.DataFrame) -> pd.DataFrame:
        """Data sets by the names that the method's runs know them by; where one, it is meant."""
        runs = self.findings.runs[self.findings.runs["method"] == method]
        known = dict(zip(runs["source"], runs["source"], strict=True))
        known |= dict(zip(runs["dataset"], runs["source"], strict=True))
        if runs["source"].nunique() == 1:
            known.setdefault(UNNAMED, main_source(runs))
        named = wanted["dataset"].map(known)
        new = wanted[named.isna()]
        together = sources(pd.concat([runs, new], ignore_index=True))[len(runs) :]
        return wanted.assign(source=named.fillna(pd.Series(together.to_numpy(), new.index)))

    def _with_figures(self, method: str, rows: pd.DataFrame) -> pd.DataFrame:
        """Figures of the rows that are known not to overfit."""
        overfit = (self.by_method[method].excess(rows) > OVERFIT)[:, None]
        losses = rows[list(PREDICTED[:3])].to_numpy(float)
        losses = np.where(overfit, np.nan, losses)
        for line in self.downstream[method]:
            if not line.why_not():
                figures = line.predict(*losses.T)
                rows = rows.assign(**dict(zip(_columns(line.column), figures, strict=True)))
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Everything that was found, in plain types; what is not known is ``None``."""
        found = self.findings
        lines = {m: [line.as_dict() for line in lines] for m, lines in self.downstream.items()}
        return _known(
            {
                "methods": {method: fit.as_dict() for method, fit in self.by_method.items()},
                "without_a_fit": self.refused,
                "downstream": lines,
                "overfit": found.runs[list(KIND)].join(found.flags).to_dict("records"),
                "best": [asdict(best) for best in found.best],
                "correlations": [asdict(each) for each in found.correlations],
                "crossovers": found.crossovers,
            }
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.findings
        for method, reason in self.refused.items():
            yield escape(f"{method}: {reason}")
        for method, fit in self.by_method.items():
            yield _table(method, fit)
            for why in fit.refusals.values():
                yield f"Nothing is said there: {why}."
            yield from (escape(_line(line)) for line in self.downstream[method])


def fit_table(
    path: Path,
    *,
    to_predict: Path | None = None,
    out: Path | None = None,
    json_out: Path | None = None,
    exclude: Sequence[str] = (),
) -> Fits:
    """Fit every method of a table, and add predictions to another table if one is given.

    Args:
        path: the table, as `read_runs` takes it.
        to_predict: rows without losses.
        out: where to write these with their predictions.
        json_out: where to write everything that was found.
        exclude: data sets to leave out.

    Raises:
        UsageError: of ``to_predict`` and ``out`` only one was given.
        OutputExists: ``out`` or ``json_out`` is there already.
        DataError: a table has not what it needs, or nothing is left of it.
    """
    if (to_predict is None) != (out is None):
        raise UsageError("--predict names the rows to predict and --out the table to write: both.")
    for name, file in (("--out", out), ("--json", json_out)):
        if file is not None and file.exists():
            raise OutputExists(f"{file} is there already. Choose another {name}.")
    wanted = read_runs(to_predict, losses=False) if to_predict else None
    runs = read_runs(path)
    if unknown := sorted(set(exclude) - {*runs["dataset"].astype(str), *runs["source"]}):
        there = ", ".join(map(str, runs["dataset"].unique()))
        raise UsageError(f"--exclude-dataset {unknown[0]}: {path} has {there}.")
    runs = runs[~(runs["dataset"].isin(exclude) | runs["source"].isin(exclude))]
    if runs.empty:
        raise DataError(f"{path}: no runs are left. Exclude fewer data sets.")
    fits = Fits(runs)
    if to_predict and out and wanted is not None:
        rows = read_table(to_predict).drop(columns=fits.predicted, errors="ignore")
        write_runs(rows.join(fits.predict(wanted)[fits.predicted]), out)
    if json_out is not None:
        write_text_atomic(json_out, json.dumps(fits.as_dict(), indent=1, allow_nan=False) + "\n")
    return fits


def _known(value: Any) -> Any:
    """``value`` with ``None`` for every number that is not one."""
    if isinstance(value, dict):
        return {key: _known(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_known(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _columns(figure: str) -> list[str]:
    return [f"{figure}_{part}" for part in ("predicted", "low", "high")]


def _line(line: Downstream) -> str:
    """One sentence on what the loss says of a figure."""
    if reason := line.why_not():
        return f"{line.column}: nothing is said: {reason}."
    a, b = line.line
    return (
        f"{line.column} = {a:.4g} {b:+.4g} val_loss, by {line.runs} runs that do not overfit; off "
        f"by {line.error:.2g} on a model left out, where the median is by {line.baseline:.2g}."
    )


def _table(method: str, fit: Fit) -> Table:
    """Errors of every form on the rows that it had not seen, beside the baselines'."""
    title = f"{method}: {len(fit.runs)} runs; error of the loss where these were held out, in %"
    table = Table(title=escape(title), title_justify="left")
    table.add_column("form")
    edges = [edge for edge in EDGES if edge in fit.errors]
    for edge in edges:
        table.add_column(EDGES[edge], justify="right")
    for fitted in fit.forms:
        errors = fit.errors_of(fitted)
        table.add_row(fitted.form.name, *(f"{errors[edge]:.2%}" for edge in edges))
    table.add_section()
    table.add_row("weighted together", *(f"{fit.errors[edge]:.2%}" for edge in edges))
    for name in ("nearest known run", "median"):
        table.add_row(name, *(f"{fit.baselines[edge][name]:.2%}" for edge in edges))
    return table

"""``unlabel study fit``: the fits of a table's methods, what they are worth, and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from unlabel.errors import DataError, OutputExists, UsageError
from unlabel.study.findings import Findings
from unlabel.study.fit import INSIDE, Fit
from unlabel.study.predict import PREDICTED, predict
from unlabel.study.table import read_runs, read_table, write_runs

EDGES = {
    "model": "largest model",
    "length": "longest runs",
    "data": "least data",
    INSIDE: "a fifth in turn",
}


class Fits:
    """One fit a method, and what the runs themselves show."""

    def __init__(self, by_method: Mapping[str, Fit], runs: pd.DataFrame) -> None:
        self.by_method = by_method
        self.findings = Findings.of(runs)

    def predict(self, wanted: pd.DataFrame) -> pd.DataFrame:
        """The rows with predicted losses; a method without a fit gets a note instead.

        Where the table has one method, rows need not name it.
        """
        only = next(iter(self.by_method)) if len(self.by_method) == 1 else None
        parts = []
        for method, rows in wanted.groupby("method", sort=False):
            fit = self.by_method.get(only if method == "any" and only else str(method))
            if fit is None:
                raise DataError(
                    f"The table has no runs of method {method}; it has: "
                    f"{', '.join(self.by_method)}."
                )
            parts.append(predict(fit, rows))
        return pd.concat(parts).loc[wanted.index]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.findings
        for method, fit in self.by_method.items():
            yield _table(method, fit)
            for axis in EDGES:
                if axis in fit.errors and (reason := fit.why_not(axis)):
                    yield f"Nothing is said there: {reason}."


def fit_table(
    path: Path,
    *,
    to_predict: Path | None = None,
    out: Path | None = None,
    exclude: Sequence[str] = (),
) -> Fits:
    """Fit every method of a table, and add predictions to another table if one is given.

    Raises:
        UsageError: of ``to_predict`` and ``out`` only one was given.
        OutputExists: ``out`` is there already.
        DataError: a table has not what it needs, or nothing is left of it.
    """
    if (to_predict is None) != (out is None):
        raise UsageError("--predict names the rows to predict and --out the table to write: both.")
    if out is not None and out.exists():
        raise OutputExists(f"{out} is there already. Choose another --out.")
    wanted = read_runs(to_predict, losses=False) if to_predict else None
    runs = read_runs(path)
    if unknown := sorted(set(exclude) - {*runs["dataset"].astype(str), *runs["source"]}):
        there = ", ".join(map(str, runs["dataset"].unique()))
        raise UsageError(f"--exclude-dataset {unknown[0]}: {path} has {there}.")
    runs = runs[~(runs["dataset"].isin(exclude) | runs["source"].isin(exclude))]
    fits = Fits({str(m): Fit(rows) for m, rows in runs.groupby("method", sort=False)}, runs)
    if to_predict and out and wanted is not None:
        rows = read_table(to_predict).drop(columns=list(PREDICTED), errors="ignore")
        write_runs(rows.join(fits.predict(wanted)[list(PREDICTED)]), out)
    return fits


def _table(method: str, fit: Fit) -> Table:
    """Errors of every form on the rows that it had not seen, beside the baselines'."""
    title = f"{method}: {len(fit.runs)} runs; error of the loss where these were held out, in %"
    table = Table(title=title, title_justify="left")
    table.add_column("form")
    axes = [axis for axis in EDGES if axis in fit.errors]
    for axis in axes:
        table.add_column(EDGES[axis], justify="right")
    for fitted in fit.forms:
        errors = fit.errors_of(fitted)
        table.add_row(fitted.form.name, *(f"{errors[axis]:.2%}" for axis in axes))
    table.add_section()
    table.add_row("weighted together", *(f"{fit.errors[axis]:.2%}" for axis in axes))
    for name in ("nearest known run", "median"):
        cells = [fit.baselines.get(axis, {}).get(name) for axis in axes]
        table.add_row(name, *("" if cell is None else f"{cell:.2%}" for cell in cells))
    return table

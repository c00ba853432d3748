"""Figures of a study's page, as Plotly specifications: a colour and a mark for each model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from unlabel.report.figures import SYMBOLS, Figure
from unlabel.report.text import figure_text, number
from unlabel.scaling.findings import Findings
from unlabel.scaling.outlook import Outlook, Place
from unlabel.scaling.table import LOSS, accuracies

Palette = Mapping[str, int]
CURVE = 40
"""Points of a fitted curve."""
AHEAD = 4.0
"""Times beyond the table that fitted curves are drawn, where the fit says anything there."""
AXES = {
    "images": ("data", "unique_images", "images that differ"),
    "params_m": ("model", "params_m", "parameters, millions"),
    "samples": ("length", "samples_seen", "images seen"),
}
"""By the field of `Place`: the fit's axis, the table's column, and what the figure calls it."""


def length_figures(findings: Findings, palette: Palette) -> list[Figure]:
    """Held-out and training loss against length: a figure for each number of images."""
    runs = findings.runs.assign(overfit=findings.overfit)
    losses = [name for name in ("train_loss", LOSS) if name in runs]
    values = runs[losses].to_numpy(float)
    low, high = np.nanmin(values), np.nanmax(values)
    span = [float(low - 0.03 * (high - low)), float(high + 0.03 * (high - low))]
    figures = []
    for (_, images), rows in runs.groupby(["source", "unique_images"]):
        figure = go.Figure(layout={"template": {}})
        for model, own in rows.groupby("model", sort=False):
            for loss in losses:
                figure.add_trace(_over_length(own, str(model), loss, palette[str(model)]))
        figure.update_layout(
            xaxis={"type": "log", "title": {"text": "images seen"}},
            yaxis={"title": {"text": "loss"}, "range": span},
        )
        crowded = int(rows["overfit"].sum())
        figures.append(
            Figure(
                f"{images:,.0f} images",
                f"{crowded} of {len(rows)} overfit" if crowded else "",
                _lowest(rows),
                figure.to_plotly_json(),
            )
        )
    return figures


def _over_length(rows: pd.DataFrame, model: str, loss: str, colour: int) -> go.Scatter:
    """Means over seeds; held-out losses of runs that overfit are hollow."""
    found = rows.groupby("samples_seen").agg({loss: "mean", "overfit": "max"}).dropna()
    held_out = loss == LOSS
    symbol = SYMBOLS[colour % len(SYMBOLS)]
    overfit = found["overfit"].astype(bool) & held_out
    return go.Scatter(
        x=found.index.tolist(),
        y=[float(f"{value:.6g}") for value in found[loss]],
        name=figure_text(f"{model}, {'held out' if held_out else 'training'}"),
        meta={"colour": colour},
        mode="lines+markers",
        line={"dash": "solid" if held_out else "dot"},
        marker={
            "symbol": [f"{symbol}-open" if crowded else symbol for crowded in overfit],
            "size": 9 if held_out else 4,
        },
        customdata=["overfits" if crowded else "" for crowded in overfit],
        hovertemplate="%{fullData.name}: %{y:.4~g} %{customdata}<br>%{x:,} images seen"
        "<extra></extra>",
    )


def _lowest(rows: pd.DataFrame) -> str:
    best = rows.loc[rows[LOSS].idxmin()]
    return (
        f"Lowest held-out loss {number(best[LOSS])}, by {best['model']} after "
        f"{number(best['samples_seen'])} images seen. The table of runs has every figure."
    )


def accuracy_figures(findings: Findings, palette: Palette) -> list[Figure]:
    """Each downstream figure against the held-out loss; runs that overfit are hollow."""
    runs = findings.runs.assign(overfit=findings.overfit)
    figures = []
    for column in accuracies(runs):
        figure = go.Figure(layout={"template": {}})
        for model, rows in runs.dropna(subset=[column]).groupby("model", sort=False):
            colour = palette[str(model)]
            symbol = SYMBOLS[colour % len(SYMBOLS)]
            figure.add_scatter(
                x=rows[LOSS].tolist(),
                y=rows[column].tolist(),
                name=figure_text(model),
                meta={"colour": colour},
                mode="markers",
                marker={
                    "symbol": [f"{symbol}-open" if over else symbol for over in rows["overfit"]],
                    "size": 8,
                },
                customdata=rows[["unique_images", "samples_seen"]].to_numpy(float).tolist(),
                hovertemplate="%{fullData.name}: %{y:.4~g} at loss %{x:.4~g}<br>%{customdata[0]:,} "
                "images, %{customdata[1]:,} seen<extra></extra>",
            )
        figure.update_layout(
            xaxis={"title": {"text": "held-out loss"}}, yaxis={"title": {"text": column}}
        )
        best = runs[column].max()
        summary = f"The highest is {number(best)}. The table of runs has every figure."
        figures.append(Figure(column, "", summary, figure.to_plotly_json()))
    return figures


def scaling_figures(outlook: Outlook, models: Sequence[Place], palette: Palette) -> list[Figure]:
    """What the fit says along each axis, with intervals, measured points and held-out ones.

    Args:
        outlook: of the method's fit.
        models: each model on the most images for the longest.
        palette: colours by model.
    """
    parts = {
        "images": ("More images", models),
        "samples": ("Longer training", models),
        "params_m": ("Larger models", models[-1:]),
    }
    return [
        _scaling(outlook, axis, title, places, palette) for axis, (title, places) in parts.items()
    ]


def _scaling(
    outlook: Outlook, axis: str, title: str, places: Sequence[Place], palette: Palette
) -> Figure:
    figure = go.Figure(layout={"template": {}})
    fit_axis, column, unit = AXES[axis]
    runs = outlook.fit.runs.join(outlook.fit.unseen(fit_axis)["val_loss_unseen"])
    said = []
    for place in places:
        colour = -1 if axis == "params_m" else palette[place.model]
        name = "fit" if axis == "params_m" else place.model
        reach = np.geomspace(runs[column].min(), AHEAD * runs[column].max(), CURVE)
        found = outlook.losses([Place(**{**place._asdict(), axis: float(at)}) for at in reach])
        for trace in _curve(found.dropna(subset=["val_loss_low"]), column, name, colour):
            figure.add_trace(trace)
        figure.add_traces(list(_points(_along(runs, place, axis), column, palette)))
        end = found.dropna(subset=["val_loss_low"]).iloc[-1:]
        said += [
            f"{name} at {r[column]:,.4g}: {r['val_loss_predicted']:.4g}" for _, r in end.iterrows()
        ]
    figure.update_layout(
        xaxis={"type": "log", "title": {"text": unit}}, yaxis={"title": {"text": "held-out loss"}}
    )
    return Figure(title, "", "; ".join(said) + ".", figure.to_plotly_json())


def _along(runs: pd.DataFrame, place: Place, axis: str) -> pd.DataFrame:
    """The runs that differ from a place in one thing alone."""
    same = pd.Series(True, index=runs.index)
    for name, (_, column, _) in AXES.items():
        if name != axis:
            same &= np.isclose(runs[column], getattr(place, name))
    return runs[same]


def _curve(found: pd.DataFrame, column: str, name: str, colour: int) -> Iterator[go.Scatter]:
    x = found[column].tolist()
    shared: dict[str, Any] = {"x": x, "mode": "lines", "meta": {"colour": colour}}
    quiet = {**shared, "hoverinfo": "skip", "line": {"width": 0}}
    yield go.Scatter(y=found["val_loss_low"].tolist(), **quiet)
    band = {**quiet, "meta": {"colour": colour, "band": True}, "fill": "tonexty"}
    yield go.Scatter(y=found["val_loss_high"].tolist(), **band)
    yield go.Scatter(
        y=found["val_loss_predicted"].tolist(),
        name=figure_text(name),
        customdata=found[["val_loss_low", "val_loss_high"]].to_numpy(float).tolist(),
        hovertemplate="%{fullData.name}: %{y:.4~g} (%{customdata[0]:.4~g} to %{customdata[1]:.4~g})"
        "<br>%{x:,.4~g}<extra></extra>",
        **shared,
    )


def _points(rows: pd.DataFrame, column: str, palette: Palette) -> Iterator[go.Scatter]:
    """Measured losses, and beside them what was predicted for them when they were held out."""
    for model, own in rows.groupby("model", sort=False):
        colour = palette[str(model)]
        kinds = {
            "measured": (LOSS, SYMBOLS[colour % len(SYMBOLS)]),
            "predicted without it": ("val_loss_unseen", "x-thin-open"),
        }
        for kind, (values, symbol) in kinds.items():
            known = own.dropna(subset=[values])
            yield go.Scatter(
                x=known[column].tolist(),
                y=known[values].tolist(),
                name=figure_text(model),
                mode="markers",
                meta={"colour": colour},
                marker={"symbol": symbol, "size": 8},
                hovertemplate=f"%{{fullData.name}}, {kind}: %{{y:.4~g}}<br>%{{x:,.4~g}}"
                "<extra></extra>",
            )

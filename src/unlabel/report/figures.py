"""The page's figures, as Plotly specifications without colours: the page's script adds those.

A trace's ``meta`` names its place in the palette, so that the figures follow the reader's dark or
light theme, and one subject keeps its colour in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plotly.graph_objects as go

from unlabel.report.curves import Curve
from unlabel.report.scores import ScoreTable, describe
from unlabel.report.text import figure_text, number

SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")
"""Marks of subjects, so that colour never stands alone."""
GLYPHS = "●■▲◆▼✚✖★"
"""The same marks for legends."""
SPREAD = 100
"""A loss whose largest value is this many times its smallest is drawn on a log axis."""
FEW = 60
"""Points up to which each has a mark of its own."""

Curves = Mapping[str, Curve]


@dataclass(frozen=True)
class Figure:
    """One figure: what it shows, its last value for those who only skim, and how to draw it."""

    title: str
    latest: str
    summary: str
    spec: dict[str, Any]
    legend: list[tuple[int, str]] = field(default_factory=list)
    """Places in the palette and what they stand for, where there is more than one curve."""


def run_figures(train: Curves, monitor: Curves) -> list[Figure]:
    """Loss, representation and speed over the run: one figure for each that was logged."""
    loss = [("training", train.get("loss")), ("held-out images", monitor.get("held_out_loss"))]
    speed = train.get("images_per_second")
    figures = (
        _lines("Loss", "loss", loss),
        _lines("kNN accuracy", "accuracy, %", [("kNN", _percent(monitor.get("knn")))]),
        _lines("RankMe", "effective dimensions", [("RankMe", monitor.get("rankme"))]),
        _lines("Spread of features", "spread, 0 to 1", [("spread", monitor.get("feature_std"))]),
        _lines("Speed", "images a second", [("speed", speed)], rangemode="tozero"),
        _lines("Learning rate", "learning rate", [("learning rate", train.get("lr"))]),
    )
    return [figure for figure in figures if figure]


def other_figures(train: Curves, monitor: Curves) -> list[Figure]:
    """Every scalar that `run_figures` does not show, by name."""
    main = {"loss", "lr", "images_per_second", "held_out_loss", "knn", "rankme", "feature_std"}
    found = [
        _lines(f"{name} ({kind})", "", [(name, curves[name])])
        for kind, curves in (("training", train), ("held-out", monitor))
        for name in sorted(set(curves) - main)
    ]
    return [figure for figure in found if figure]


def score_figure(table: ScoreTable, palette: Mapping[str, int]) -> Figure:
    """Accuracy against labelled images, on a log axis, with 95 % intervals.

    ``palette``: each subject's place. Subjects are moved aside by a few per cent so that their
    intervals do not hide each other.
    """
    figure = go.Figure(layout={"template": {}})
    ticks = {max(s.train_images, 1): describe(s.labels) for s in table.scores}
    for index, (name, row) in enumerate(table.rows):
        scores = [score for score in row if score]
        aside = 1.04 ** (index - (len(table.rows) - 1) / 2)
        figure.add_scatter(
            x=[max(s.train_images, 1) * aside for s in scores],
            y=[round(s.accuracy, 2) for s in scores],
            error_y={
                "type": "data",
                "array": [round(s.high - s.accuracy, 2) for s in scores],
                "arrayminus": [round(s.accuracy - s.low, 2) for s in scores],
            },
            customdata=[[round(s.low, 1), round(s.high, 1), s.train_images] for s in scores],
            name=figure_text(name),
            meta={"colour": palette[name]},
            mode="lines+markers",
            marker={"symbol": SYMBOLS[palette[name] % len(SYMBOLS)]},
            hovertemplate="%{fullData.name}<br>%{y:.1f} % (%{customdata[0]} to %{customdata[1]})"
            "<br>%{customdata[2]:,} labelled images<extra></extra>",
        )
    figure.update_layout(
        xaxis={
            "type": "log",
            "title": {"text": "labels a class"},
            "tickvals": list(ticks),
            "ticktext": [figure_text(_short(text)) for text in ticks.values()],
        },
        yaxis={"title": {"text": "accuracy, %"}},
    )
    best = [f"{c}: {b:.1f} %" for c, b in zip(table.columns, table.best, strict=True)]
    return Figure(
        table.title, "", f"Best accuracy, {'; '.join(best)}. The table above has every figure.",
        figure.to_plotly_json(),
    )  # fmt: skip


def _lines(
    title: str, unit: str, curves: list[tuple[str, Curve | None]], **yaxis: Any
) -> Figure | None:
    """Curves over the steps, the last one in the accent colour; ``None`` if nothing is there."""
    present = [
        (0 if place == len(curves) - 1 else -1, name, curve)
        for place, (name, curve) in enumerate(curves)
        if curve is not None and len(curve.finite)
    ]
    if not present:
        return None
    figure = go.Figure(layout={"template": {}})
    for colour, name, curve in present:
        _add_curve(figure, colour, name, curve.thinned())
    if unit == "loss" and _spans_orders([curve for _, _, curve in present]):
        yaxis |= {"type": "log"}
    figure.update_layout(
        xaxis={"title": {"text": "step"}}, yaxis={"title": {"text": unit}, **yaxis}
    )
    legend = [(colour, name) for colour, name, _ in present] if len(curves) > 1 else []
    latest = number(present[-1][2].finite[-1]) + (" %" if unit.endswith("%") else "")
    return Figure(title, latest, _summary(present), figure.to_plotly_json(), legend)


def _add_curve(figure: go.Figure, colour: int, name: str, curve: Curve) -> None:
    figure.add_scatter(
        x=curve.steps.tolist(),
        y=[float(f"{v:.6g}") if np.isfinite(v) else None for v in curve.values],
        name=figure_text(name),
        meta={"colour": colour},
        mode="lines+markers" if len(curve.steps) <= FEW else "lines",
        hovertemplate="%{fullData.name}: %{y:,.4~g}<br>step %{x:,}<extra></extra>",
    )


def _spans_orders(curves: list[Curve]) -> bool:
    values = np.concatenate([curve.finite for curve in curves])
    return bool(values.min() > 0 and values.max() > SPREAD * values.min())


def _summary(present: list[tuple[int, str, Curve]]) -> str:
    """A sentence for those who cannot see the figure."""
    parts = []
    for _, name, curve in present:
        good = np.isfinite(curve.values)
        steps, values = curve.steps[good], curve.values[good]
        parts.append(
            f"{name}: {number(values[0])} at step {number(steps[0])}, "
            f"{number(values[-1])} at step {number(steps[-1])}"
        )
        if not good.all():
            parts.append(f"{(~good).sum():,} values of it are no numbers")
    return "; ".join(parts) + "."


def _percent(curve: Curve | None) -> Curve | None:
    return curve and Curve(curve.steps, 100 * curve.values)


def _short(label: str) -> str:
    return (
        label.removesuffix(" labels a class").removesuffix(" label a class").removesuffix(" labels")
    )

"""What a study tells on the terminal: its plan before it starts, and how far it is."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from unlabel.report.text import duration
from unlabel.study.plan import Plan, PlannedRun


def show_plan(plan: Plan, free: int, ended: Sequence[str] = ()) -> RenderableType:
    """The plan: what will be trained, on how many images, and what it takes.

    Args:
        plan: with its costs.
        free: bytes that the disk has left.
        ended: names of runs that a study has already, where it is given more.
    """
    left = [run for run in plan.runs if run.name not in ended]
    asked, shares = plan.asked, plan.images.items()
    batch = plan.runs[0].config.batch_size
    images = ", ".join(f"{share:.4g} has {count:,}" for share, count in shares)
    alone = "" if plan.steps == plan.steps_alone else f" ({plan.steps_alone:,} without sharing)"
    lines = [
        f"[bold]{len(plan.runs)} runs[/bold] on {escape(plan.dataset)}: {_counts(plan)}.",
        f"Images to learn from: {images}. Every run is judged by {plan.held_out:,} others.",
        f"Lengths: {', '.join(f'{n:,}' for n in asked.lengths)} steps of {batch} images.",
        f"Steps to compute: {plan.steps:,}{alone}.",
        *([f"{len(ended)} of the runs have ended."] if ended else []),
        f"Time: about {duration(plan.seconds(left))} here, and the measuring of each network.",
        f"Disk: at most {plan.bytes / 1e9:.2g} GB of {free / 1e9:,.2g} GB that are free.",
        *(f"Note: {escape(note)}" for note in plan.notes),
    ]
    return Group(*lines, _costs(plan))


def _counts(plan: Plan) -> str:
    """How many of each thing the grid crosses."""
    asked = plan.asked
    counts = {
        "model": len(asked.models),
        "amount": len(asked.fractions),
        "length": len(asked.lengths),
        "method": len(asked.methods),
        "seed": asked.seeds,
    }
    return ", ".join(f"{n} {name}{'s' if n > 1 else ''}" for name, n in counts.items())


def _costs(plan: Plan) -> Table:
    """A row a method and model."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("method", "model", "parameters", "a step", "all its runs"):
        table.add_column(heading, justify="left" if heading in ("method", "model") else "right")
    for kind, cost in plan.costs.items():
        runs = [run for run in plan.runs if run.kind == kind]
        table.add_row(
            runs[0].method,
            escape(runs[0].model),
            f"{cost.parameters / 1e6:.2f} M",
            f"{cost.step:.3g} s",
            duration(plan.seconds(runs)),
        )
    return table


def show_run(planned: PlannedRun, number: int, count: int) -> str:
    """A line before a run."""
    shared = f", the first {planned.shared:,} of them shared" if planned.shared else ""
    return f"Run {number} of {count}: {planned.name}, {planned.config.steps:,} steps{shared}"

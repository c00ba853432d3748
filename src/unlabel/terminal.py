"""What a run tells on the terminal: what it chose, how far it is, what it found."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from unlabel.training.run import Run
from unlabel.training.verdict import Verdict

console = Console(stderr=True, highlight=False)


def print_settings(run: Run, asked: Mapping[str, Any]) -> None:
    """What the run is, what of it was asked for, and why the rest is as it is."""
    facts, config = run.facts, run.config
    data, parameters = facts["data"], facts["model"]["parameters"]
    console.print(
        f"[bold]{config.method}[/bold] on {data['images']:,} images of {escape(data['name'])}, "
        f"{escape(config.model.name)} with {parameters / 1e6:.1f} M parameters. "
        f"Run: {escape(str(run.path))}"
    )
    if asked:
        said = ", ".join(f"{name}={value}" for name, value in asked.items())
        console.print(f"As asked: {escape(said)}. Chosen for you:")
    else:
        console.print("Chosen for you, as nothing else was asked:")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    before = None
    for name, reason in facts["reasons"].items():
        value, _, why = reason.partition(": ")
        table.add_row(escape(name), escape(f"{value}: likewise" if why == before else reason))
        before = why
    console.print(table)


def print_verdict(verdict: Verdict) -> None:
    """The verdict, its reasons and what to do next."""
    console.print(f"\n[bold]{verdict.headline}[/bold]")
    for line in verdict.why:
        console.print(f"  {line}")
    for line in verdict.next:
        console.print(f"  Next: {line}")


class Bar(AbstractContextManager["Bar"]):
    """A progress bar from the first step on; what is told meanwhile stands above it.

    In a file that is written instead of a terminal, a line for every tenth of the run.
    """

    def __init__(self, show: bool) -> None:
        columns = (
            TextColumn("Training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]:,.0f} images/s  loss {task.fields[loss]:.4f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.show = show
        self.live = console.is_terminal or console.is_jupyter
        self.progress = Progress(*columns, console=console, disable=not (show and self.live))

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def tell(self, text: str) -> None:
        """Print what begins now, or a warning."""
        if self.show:
            style = "bold yellow" if text.startswith("Warning") else "dim"
            console.print(text, style=style, markup=False)

    def watch(self, done: int, steps: int, speed: float, loss: float) -> None:
        """Show how far training is: updates done of all, images a second, loss."""
        if self.show and not self.live and 10 * done // steps > 10 * (done - 1) // steps:
            console.print(f"{done:,} of {steps:,} steps, {speed:,.0f} images/s, loss {loss:.4f}")
        if not self.progress.tasks:
            self.progress.start()
            self.progress.add_task("", total=steps, speed=speed, loss=loss)
        task = self.progress.tasks[0].id
        self.progress.update(task, completed=done, speed=speed, loss=loss)

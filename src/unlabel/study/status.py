"""How far a study is, from its folder alone: also while another process works on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Group
from rich.markup import escape

from unlabel.report.text import duration
from unlabel.study.folder import Study
from unlabel.study.plan import Cost, PlannedRun, seconds_of
from unlabel.training.run import Run


@dataclass(frozen=True)
class Status:
    """Progress of a study; ``seconds_left`` is an estimate, and for one run after another."""

    path: Path
    runs: int
    done: int
    failed: dict[str, str]
    """Reasons of the runs that failed, by their names."""
    begun: dict[str, tuple[int, int]]
    """Updates done, and updates in all, of the runs that have begun and not ended."""
    steps: int
    steps_left: int
    seconds_left: float

    @classmethod
    def of(cls, study: Study) -> Status:
        """Look at a study's folder."""
        plan, left = study.plan, study.left()
        outcomes = {run.name: study.outcome(run.name) for run in plan.runs}
        done = [o for o in outcomes.values() if o and o["state"] == "done"]
        failed = {n: o["reason"] for n, o in outcomes.items() if o and o["state"] == "failed"}
        updates = {run.name: _updates(study, run) for run in left}
        ahead = {run.name: run.config.steps - updates[run.name] for run in left}
        costs = _costs(study)
        training = [seconds_of(r, costs[r.kind]) * ahead[r.name] / r.own_steps for r in left]
        measuring = len(left) * median(o["measuring"] for o in done) if done else 0.0
        return cls(
            path=study.path,
            runs=len(plan.runs),
            done=len(done),
            failed=failed,
            begun={
                run.name: (updates[run.name], run.config.steps)
                for run in left
                if study.folder_of(run.name).is_dir()
            },
            steps=plan.steps,
            steps_left=sum(ahead.values()),
            seconds_left=sum(training) + measuring,
        )

    def __rich__(self) -> Group:
        """What a terminal shows."""
        folder = escape(str(self.path))
        lines = [
            f"[bold]{self.done + len(self.failed)} of {self.runs} runs[/bold] of {folder} have "
            f"ended, {self.steps - self.steps_left:,} of {self.steps:,} steps."
        ]
        for name, (updates, steps) in self.begun.items():
            lines.append(f"Begun: {escape(name)}, {updates:,} of {steps:,} steps.")
        lines += [f"Failed: {escape(n)}. {escape(why)}" for n, why in self.failed.items()]
        if self.done + len(self.failed) < self.runs:
            lines.append(
                f"Left: {self.steps_left:,} steps, about {duration(self.seconds_left)}. "
                f"If it was stopped, continue with: unlabel study --resume {folder}"
            )
        else:
            lines += [
                f"Table: {folder}/runs.csv",
                f"Page:  {folder}/report.html",
                f"Advice: unlabel study advise {folder}",
            ]
        return Group(*lines)


def _updates(study: Study, run: PlannedRun) -> int:
    """Updates that a run need not compute any more: logged ones, or those of its trunk."""
    path = study.folder_of(run.name)
    logged = Run.open(path).metrics("train") if path.is_dir() else []
    return max(run.shared, logged[-1]["step"] + 1 if logged else 0)


def _costs(study: Study) -> dict[str, Cost]:
    """What the plan measured, with the steps of finished runs in place of its own few."""
    found: dict[str, list[float]] = {kind: [] for kind in study.plan.costs}
    for row in study.rows():
        found[f"{row['method']} {row['model']}"].append(row["seconds"] / row["steps"])
    return {
        kind: cost.model_copy(update={"step": median(found[kind])}) if found[kind] else cost
        for kind, cost in study.plan.costs.items()
    }

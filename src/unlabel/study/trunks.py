"""How a run of a study begins: from nothing, or as the longer run that it branches off.

A branch is an ordinary run whose folder begins with its trunk's checkpoint and figures up to the
step where their learning rates part. It is then resumed as any run is, so it ends with the bits of
the same run trained alone.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from unlabel.atomic import TEMPORARY, link_folder, mismatch, publish
from unlabel.data.store import Store
from unlabel.errors import Diverged
from unlabel.pretraining import facts_of
from unlabel.rules import Choice
from unlabel.study.folder import Study
from unlabel.study.plan import PlannedRun
from unlabel.training import checkpoint
from unlabel.training.loop import best_step
from unlabel.training.run import Run


def begin(study: Study, planned: PlannedRun) -> Run:
    """The run's folder as it is, or made anew: a branch with what its trunk has for it.

    Where the trunk's checkpoint is damaged, the branch begins as any run and is as good.

    Raises:
        Diverged: its trunk failed before it reached the branch.
    """
    path = study.folder_of(planned.name)
    if path.is_dir():
        return _as_planned(path, planned)
    aside = path.with_name(f"{TEMPORARY}{planned.name}")
    shutil.rmtree(aside, ignore_errors=True)  # of a study that was killed here
    source = _branching_point(study, planned)
    if source is None:
        store = Store.open(planned.config.data)
        Run.create(aside, planned.config, facts_of(store, Choice(planned.config, {})))
    else:
        _branch_off(aside, planned, source)
    publish(aside, path)
    return _as_planned(path, planned)


def _as_planned(path: Path, planned: PlannedRun) -> Run:
    """The run at ``path``, which reads its rows where the study stands now."""
    Run.open(path)  # refuses what is damaged
    return Run(path, planned.config)


def _branching_point(study: Study, planned: PlannedRun) -> Path | None:
    """The checkpoint of its trunk that a run begins with, where there is one that is whole."""
    if planned.trunk is None:
        return None
    source = checkpoint.path_of(study.folder_of(planned.trunk) / "checkpoints", planned.shared)
    failed = (study.outcome(planned.trunk) or {}).get("state") == "failed"
    if failed and not source.is_dir():
        raise Diverged(
            f"{planned.trunk}, which it begins as, failed before step {planned.shared:,}, where "
            "they part."
        )
    return source if mismatch(source) is None else None


def _branch_off(path: Path, planned: PlannedRun, source: Path) -> None:
    """Make a run at ``path`` with its trunk's checkpoint and figures up to where they part."""
    trunk = Run.open(source.parent.parent)
    branch = Run.create(path, planned.config, trunk.facts)
    link_folder(source, checkpoint.path_of(branch.checkpoints, planned.shared))
    branch.append_metrics(trunk.metrics())
    branch.truncate_metrics(planned.shared)


def drop_branching_points(study: Study) -> None:
    """Remove what trunks kept for their branches, where they and all of these have ended."""
    for trunk in study.plan.runs:
        at = partial(checkpoint.path_of, study.folder_of(trunk.name) / "checkpoints")
        family = (trunk, *study.plan.branches_of(trunk))
        kept = any(at(step).is_dir() for step in trunk.config.keep)
        if kept and all(study.outcome(run.name) for run in family):
            run = Run.open(study.folder_of(trunk.name))
            checkpoint.prune(run.checkpoints, {at(trunk.config.steps), at(best_step(run))})

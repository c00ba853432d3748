"""How a run of a study begins: from nothing, or as the longer run that it branches off.

A branch is an ordinary run whose folder begins with its trunk's checkpoint and figures up to the
step where their learning rates part. It is then resumed as any run is, so it ends with the bits of
the same run trained alone.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from unlabel.atomic import TEMPORARY, link_folder, publish
from unlabel.data.store import Store
from unlabel.errors import DataError
from unlabel.pretraining import facts_of
from unlabel.rules import Choice
from unlabel.study.folder import Study
from unlabel.study.plan import PlannedRun
from unlabel.training import checkpoint
from unlabel.training.loop import best_step
from unlabel.training.run import Run


def begin(study: Study, planned: PlannedRun) -> Run:
    """The run's folder as it is, or made anew: a branch with what its trunk has for it.

    Raises:
        DataError: its trunk ended before it reached the branch.
    """
    path = study.folder_of(planned.name)
    if path.is_dir():
        return Run.open(path)
    aside = path.with_name(f"{TEMPORARY}{planned.name}")
    shutil.rmtree(aside, ignore_errors=True)  # of a study that was killed here
    if planned.trunk is None:
        store = Store.open(planned.config.data)
        Run.create(aside, planned.config, facts_of(store, Choice(planned.config, {})))
    else:
        _branch_off(aside, planned, Run.open(study.folder_of(planned.trunk)))
    publish(aside, path)
    return Run.open(path)


def _branch_off(path: Path, planned: PlannedRun, trunk: Run) -> None:
    """Make a run at ``path`` with the checkpoint and the figures of its trunk where they part."""
    source = checkpoint.path_of(trunk.checkpoints, planned.shared)
    if not source.is_dir():
        raise DataError(
            f"The run that it begins as, {trunk.path.name}, ended before step {planned.shared:,}, "
            "where they part."
        )
    branch = Run.create(path, planned.config, trunk.facts)
    link_folder(source, checkpoint.path_of(branch.checkpoints, planned.shared))
    branch.append_metrics(trunk.metrics())
    branch.truncate_metrics(planned.shared)


def drop_branching_points(study: Study, ended: PlannedRun) -> None:
    """Remove what a trunk kept for its branches, once it and all of them have ended."""
    trunk = next(run for run in study.plan.runs if run.name == (ended.trunk or ended.name))
    if any(study.outcome(run.name) is None for run in (trunk, *study.plan.branches_of(trunk))):
        return
    run = Run.open(study.folder_of(trunk.name))
    steps = (run.config.steps, best_step(run))
    checkpoint.prune(run.checkpoints, {checkpoint.path_of(run.checkpoints, at) for at in steps})

"""The verb ``study``: from the grid that was asked for to the last run's figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shutil import disk_usage
from typing import Any

from unlabel.config import validated
from unlabel.data.cache import open_or_ingest
from unlabel.data.store import Store
from unlabel.errors import UsageError
from unlabel.machine import this_machine
from unlabel.pretraining import name_of
from unlabel.study.estimate import measure_cost
from unlabel.study.folder import Study
from unlabel.study.grid import check_asked, make_plan
from unlabel.study.on_ray import carry_out_on_ray
from unlabel.study.page import write_study_page
from unlabel.study.plan import Plan, PlannedRun, StudyConfig
from unlabel.study.runner import carry_out
from unlabel.study.show import show_plan, show_run
from unlabel.study.status import Status
from unlabel.terminal import Bar, console
from unlabel.training.loop import Tell, Watch
from unlabel.training.setup import processes


def start_study(
    data: str,
    grid: Mapping[str, Any],
    out: Path | None = None,
    *,
    dry_run: bool = False,
    on_ray: bool = False,
) -> Study | None:
    """Plan a study, show the plan and carry it out; or continue the same study where it is there.

    Args:
        data: a store, or what ``ingest`` reads.
        grid: values of `StudyConfig` but for ``data``.
        out: the study's folder; named after the store when not given.
        dry_run: only show the plan.
        on_ray: train on a Ray cluster, as many runs at once as it holds.

    Returns:
        The study, finished; ``None`` for a dry run.

    Raises:
        ConfigError: something in the grid cannot work; nothing was trained.
        OutputExists: ``out`` holds something else.
    """
    _refuse_processes()
    asked = validated(StudyConfig, {"data": ".", **grid}, "The study")
    check_asked(asked)
    if out is not None and not Study.is_at(out):
        Study.check_place(out)
    store = open_or_ingest([data], asked.settings.get("model.image_size"))
    asked = asked.model_copy(update={"data": store.path.resolve()})
    out = out or Path("runs") / f"{name_of(store)}-study"
    earlier = Study.open(out) if Study.is_at(out) else None
    if earlier and earlier.plan.asked == asked and not dry_run:
        return continue_study(earlier, on_ray=on_ray)
    plan, rows = make_plan(asked, store, this_machine(), out)
    if earlier:
        earlier.check_growth(plan)
        earlier.refuse_other_images(store.fingerprint)
    plan = _with_costs(plan)
    ended = [] if earlier is None else [r.name for r in plan.runs if earlier.outcome(r.name)]
    console.print(show_plan(plan, _free(out), ended))
    if dry_run:
        return None
    study = earlier.grown(plan, rows) if earlier else Study.create(out, plan, rows)
    return _finish(study, on_ray)


def continue_study(study: Study, *, on_ray: bool = False) -> Study:
    """Train what is left of a study; a finished one is left as it is.

    Raises:
        DataError: its store holds other images than it began with.
    """
    _refuse_processes()
    study.refuse_other_images(Store.open(study.plan.asked.data).fingerprint)
    if study.left():
        console.print(Status.of(study))
    return _finish(study, on_ray)


def _finish(study: Study, on_ray: bool) -> Study:
    study.refuse_other_rows()
    if on_ray:
        carry_out_on_ray(study, partial(console.print, markup=False))
    else:
        carry_out(study, partial(_showing, study.plan))
    write_study_page(study)
    console.print(Status.of(study))
    return study


def _free(out: Path) -> int:
    """Bytes free where the study will stand."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    return disk_usage(there).free


def _refuse_processes() -> None:
    if processes().num_processes > 1:
        raise UsageError(
            "A study trains its runs one after another in one process: start it without torchrun "
            "or accelerate launch."
        )


def _with_costs(plan: Plan) -> Plan:
    """The plan with what each method and model costs, by a few steps on all images."""
    costs = {}
    for run in plan.runs:
        if run.kind not in costs:
            console.print(f"Measuring a few steps of {run.kind}", style="dim", markup=False)
            costs[run.kind] = measure_cost(run.config.model_copy(update={"rows": None}))
    return plan.model_copy(update={"costs": costs})


@contextmanager
def _showing(plan: Plan, planned: PlannedRun) -> Iterator[tuple[Watch, Tell]]:
    console.print(show_run(planned, plan.runs.index(planned) + 1, len(plan.runs)), markup=False)
    with Bar(show=True) as bar:
        yield bar.watch, bar.tell

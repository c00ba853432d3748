"""The verb ``pretrain``, from what was asked to the run's page."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from unlabel.asked import AUTO, merged, without_auto
from unlabel.backbones.base import Backbone
from unlabel.config import PretrainConfig
from unlabel.data.cache import open_or_ingest
from unlabel.data.ingest_report import REPORT, IngestReport, by_reason
from unlabel.data.store import MANIFEST, Store
from unlabel.data.views import used_layers
from unlabel.dividing import MASKS, STAGES, begins_with, divided, train_stages
from unlabel.errors import DataError, InputMissing
from unlabel.export import export_backbone
from unlabel.machine import this_machine
from unlabel.reasons import doubts, reasons
from unlabel.report.page import write_report
from unlabel.rules import Choice, choose
from unlabel.terminal import Bar, console, print_settings, print_verdict
from unlabel.training import checkpoint
from unlabel.training.batch_size import largest_batch
from unlabel.training.exported import load_exported
from unlabel.training.loop import best_step, judged, train
from unlabel.training.run import Run
from unlabel.training.setup import build, deal, processes
from unlabel.training.split import split_store
from unlabel.training.verdict import Verdict


def start_run(
    data: Sequence[str],
    asked: Mapping[str, Any],
    *,
    out: Path | None = None,
    recipe: Path | None = None,
    overwrite: bool = False,
) -> Run:
    """Ingest if need be, choose what was not asked for, train, export and write the page.

    Args:
        data: a store, or what ``ingest`` reads; the recipe's where nothing is named.
        asked: dotted settings, checked by ``asked.check``.
        out: the run's folder; named after store and method when not given.
        recipe: a file of settings that ``asked`` goes before.
        overwrite: replace the run in ``out``.
    """
    wanted = merged(asked, recipe)
    store = _images(data or _recipe_data(wanted), wanted.get("model.image_size"))
    wanted.pop("data", None)
    tune = recipe is None
    choice = choose(store, this_machine(), without_auto(wanted), tune=tune)
    if wanted.get("batch_size") == AUTO:
        choice = _fit_batch(choice, store, wanted, tune)
    run = _create(store, choice, wanted, out, overwrite)
    if processes().is_main_process:
        print_settings(run, asked if recipe is None else {"recipe": recipe, **asked})
        for doubt in doubts(run.config, run.facts["data"]["images"], store.info.median_side):
            console.print(f"Warning: {doubt}", style="bold yellow", markup=False)
    return _train_and_finish(run)


def _images(sources: Sequence[str], image_size: int | None) -> Store:
    """The store of the sources; of plain ones it is told what became of them."""
    plain = not all((Path(source) / MANIFEST).is_file() for source in sources)
    if plain and processes().is_main_process:
        console.print(f"Looking through {sources[0]}", style="dim", markup=False)
    store = open_or_ingest(sources, image_size)
    report = IngestReport.read(store.path) if plain else None
    if report is not None and processes().is_main_process:
        lines = [report.count(), *by_reason(report.refused)]
        if report.refused:
            lines.append(f"All of them: {store.path / REPORT}")
        console.print("\n".join(lines), markup=False)
    return store


def continue_run(run: Run) -> Run:
    """Continue a run from its last checkpoint; a finished one only gets its export and page anew.

    That takes neither its images nor the stages that it learnt from.
    """
    newest = checkpoint.latest(run.checkpoints)
    done = 0 if newest is None else checkpoint.step_of(newest)
    if done == run.config.steps:
        return _written_anew(run)
    _refuse_other_images(run)
    if processes().is_main_process:
        in_stages = STAGES in run.facts and not done
        where = "in its stages" if in_stages else f"after step {done:,} of {run.config.steps:,}"
        console.print(f"Continuing {run.path} {where}.")
    return _train_and_finish(run)


def _refuse_other_images(run: Run) -> None:
    began_with = run.facts.get("data", {}).get("fingerprint")
    try:
        store = Store.open(run.config.data)
    except InputMissing as error:
        raise InputMissing(
            f"{error} If it was moved, write where to as data: in {run.path / 'config.yaml'}."
        ) from None
    if began_with not in (None, store.fingerprint):
        raise DataError(
            f"{run.config.data} holds other images than {run.path} began with. Put the store back "
            "as it was, or start a new run."
        )


def load_backbone(run: Run) -> Backbone:
    """The run's backbone with the weights to use, in evaluation mode; with a notice if it is not
    finished.

    Those of the last checkpoint, or of the one with the best held-out loss where the verdict is
    overfitting; averaged over the run where it kept an average, and a teacher's where that is what
    the method exports. Its ``mean`` and ``std`` are those of the pixels that it learnt from.

    Raises:
        InputMissing: the run has no checkpoint yet.
    """
    newest = checkpoint.latest(run.checkpoints)
    if newest is None:
        raise InputMissing(
            f"{run.path} has no checkpoint yet. Continue it: unlabel pretrain --resume {run.path}"
        )
    done, steps = checkpoint.step_of(newest), run.config.steps
    if done < steps:
        console.print(
            f"{run.path} is not finished: what follows is of step {done:,} of {steps:,}. Continue "
            f"it: unlabel pretrain --resume {run.path}",
            markup=False,
        )
    verdict = run.read_json("verdict.json") or {}
    best = checkpoint.path_of(run.checkpoints, best_step(run))
    chosen = best if verdict.get("state") == "overfitting" and best.is_dir() else newest
    return load_exported(chosen)


def export_run(run: Run, out: Path | None = None, *, overwrite: bool = False) -> Path:
    """Write the run's backbone as a folder that timm loads."""
    backbone = load_backbone(run)
    return export_backbone(
        backbone,
        out or run.path / "export",
        mean=backbone.mean or (),
        std=backbone.std or (),
        notes={"run": run.path.name, "method": run.config.method, "steps": run.config.steps},
        overwrite=overwrite,
    )


def _train_and_finish(run: Run) -> Run:
    run = train_stages(run, _train)
    verdict = _train(run)
    if processes().is_main_process:
        _present(run, verdict)
    return run


def _written_anew(run: Run) -> Run:
    if processes().is_main_process:
        console.print(f"{run.path} is finished; what is told of it is written anew.", markup=False)
        verdict = judged(run, run.facts["data"]["held_out"])
        export_run(run, overwrite=True)
        _present(run, verdict)
    return run


def _present(run: Run, verdict: Verdict) -> None:
    page = write_report(run.path)
    print_verdict(verdict)
    console.print(f"Backbone: {run.path / 'export'}\nPage:     {page}")


def _train(run: Run) -> Verdict:
    """Train to the end with a bar, and export the backbone."""
    with Bar(show=processes().is_main_process) as bar:
        verdict = train(run, bar.watch, bar.tell)
    if processes().is_main_process:
        export_run(run, overwrite=True)
    return verdict


def _create(
    store: Store, choice: Choice, asked: Collection[str], out: Path | None, overwrite: bool
) -> Run:
    """Make the run's folder: the first process does, and tells the others where it is."""
    where = [""]
    state = processes()
    if state.is_main_process:
        folder = out or _free_folder(store, choice.config)
        settled, stages = divided(choice, folder)
        settled = _explained(settled, asked)
        facts = facts_of(store, choice)  # builds the model: an old run goes only for one that works
        if stages:  # their masks are no matter of the run that learns from them
            stages[MASKS] = facts["data"].pop("layers")
        if overwrite and folder.is_dir():
            Run.remove(folder)
        Run.create(folder, settled.config, {**facts, "reasons": settled.reasons, **stages})
        where = [str(folder)]
    broadcast_object_list(where)
    return Run.open(where[0])


def _fit_batch(choice: Choice, store: Store, wanted: Mapping[str, Any], tune: bool) -> Choice:
    """The same choice with the largest batch that one step on the device can hold."""
    size = largest_batch(begins_with(choice.config))
    found = choose(store, this_machine(), {**wanted, "batch_size": size}, tune=tune)
    reason = f"{size}: the largest that {this_machine().device} held in one trial step"
    return Choice(found.config, {**found.reasons, "batch_size": reason})


def _recipe_data(wanted: Mapping[str, Any]) -> list[str]:
    return [str(wanted["data"])] if "data" in wanted else []


def _free_folder(store: Store, config: PretrainConfig) -> Path:
    """runs/NAME-METHOD, with a number after it where that is taken."""
    first = Path("runs") / f"{name_of(store)}-{config.method}"
    folder, number = first, 1
    while folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder


def name_of(store: Store) -> str:
    """The store's name as people say it, without what makes it one in the cache."""
    return re.sub(r"-[0-9a-f]{12}-[0-9]+-v[0-9]+$|\.store$", "", store.path.resolve().name)


def _explained(choice: Choice, asked: Collection[str]) -> Choice:
    """The same choice, with the reasons of what no rule chose."""
    _, held_out = split_store(choice.config)
    why = reasons(choice.config, choice.reasons, asked, this_machine(), held_out)
    return Choice(choice.config, why)


def facts_of(store: Store, choice: Choice) -> dict[str, Any]:
    """What is known of a run before it begins, as in its ``run.json``; builds its model."""
    learnt_from, held_out = split_store(choice.config)
    first = begins_with(choice.config)
    method = build(first, learnt_from)
    deal(first, method, learnt_from, 0, processes().num_processes)  # refuses what cannot be dealt
    backbone = method.backbone
    return {
        "reasons": choice.reasons,
        "environment": this_machine().as_dict(),
        "data": {
            "name": name_of(store),
            "images": len(learnt_from),
            "held_out": len(held_out),
            "classes": len(store.info.classes),
            "fingerprint": store.fingerprint,
            "layers": used_layers(learnt_from, method.spec),
        },
        "model": {
            "parameters": sum(p.numel() for p in backbone.parameters()),
            "dim": backbone.dim,
        },
    }

"""The verb ``pretrain``, from what was asked to the run's page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from accelerate.utils import broadcast_object_list
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from unlabel.backbones.base import Backbone
from unlabel.config import PretrainConfig
from unlabel.data.cache import open_or_ingest
from unlabel.data.store import Store
from unlabel.data.views import used_layers
from unlabel.errors import ConfigError, DataError, InputMissing, UsageError
from unlabel.export import export_backbone
from unlabel.machine import this_machine
from unlabel.methods.registry import get_method
from unlabel.report.page import write_report
from unlabel.rules import Choice, choose
from unlabel.training import checkpoint
from unlabel.training.batch_size import largest_batch
from unlabel.training.loop import Watch, best_step, train
from unlabel.training.run import Run
from unlabel.training.setup import build, check_trackers, processes, split_store
from unlabel.training.verdict import Verdict

console = Console(stderr=True, highlight=False)


def start_run(
    data: Sequence[str],
    asked: Mapping[str, Any],
    *,
    out: Path | None = None,
    recipe: Path | None = None,
    overwrite: bool = False,
) -> Run:
    """Ingest if need be, choose what was not asked for, train, export and write the page."""
    given = {name: value for name, value in asked.items() if value is not None}
    wanted = {**_read_recipe(recipe), **given}
    if "epochs" in given and "steps" not in given:
        wanted.pop("steps", None)  # the recipe's: what is asked for goes before it
    if "method" in wanted:
        get_method(wanted["method"])  # a typo is told before hours of ingest
    store = open_or_ingest(data or _recipe_data(wanted), wanted.get("model.image_size"))
    wanted.pop("data", None)
    tune = recipe is None
    choice = choose(store, this_machine(), {**wanted, "batch_size": _number(wanted)}, tune=tune)
    if wanted.get("batch_size") == "auto":
        choice = _fit_batch(choice, store, wanted, tune)
    run = _create(store, choice, out, overwrite)
    return _train_and_finish(run)


def continue_run(path: Path) -> Run:
    """Continue a run from its last checkpoint; a finished one only gets its page anew."""
    run = Run.open(path)
    _refuse_other_images(run)
    newest = checkpoint.latest(run.checkpoints)
    done = 0 if newest is None else checkpoint.step_of(newest)
    if processes().is_main_process:
        console.print(f"Continuing {run.path} after step {done:,} of {run.config.steps:,}.")
    return _train_and_finish(run)


def _refuse_other_images(run: Run) -> None:
    began_with = run.facts.get("data", {}).get("fingerprint")
    if began_with not in (None, Store.open(run.config.data).fingerprint):
        raise DataError(
            f"{run.config.data} holds other images than {run.path} began with. Put the store back "
            "as it was, or start a new run."
        )


def load_backbone(run: Run) -> Backbone:
    """The run's backbone with the weights to use, in evaluation mode.

    Those of the last checkpoint, or of the one with the best held-out loss where the verdict is
    overfitting; averaged over the run where it kept an average, and a teacher's where that is what
    the method exports.

    Raises:
        InputMissing: the run has no checkpoint yet.
    """
    newest = checkpoint.latest(run.checkpoints)
    if newest is None:
        raise InputMissing(
            f"{run.path} has no checkpoint yet. Continue it: unlabel pretrain --resume {run.path}"
        )
    verdict = run.read_json("verdict.json") or {}
    best = checkpoint.path_of(run.checkpoints, best_step(run))
    chosen = best if verdict.get("state") == "overfitting" and best.is_dir() else newest
    learnt_from, _ = split_store(run.config)
    method = build(run.config, learnt_from)
    checkpoint.load(chosen, method)
    return method.exported.eval()


def export_run(run: Run, out: Path | None = None, *, overwrite: bool = False) -> Path:
    """Write the run's backbone as a folder that timm loads."""
    info = Store.open(run.config.data).info
    return export_backbone(
        load_backbone(run),
        out or run.path / "export",
        mean=info.mean,
        std=info.std,
        notes={"run": run.path.name, "method": run.config.method, "steps": run.config.steps},
        overwrite=overwrite,
    )


def _train_and_finish(run: Run) -> Run:
    with _bar(run, show=processes().is_main_process) as watch:
        verdict = train(run, watch)
    if processes().is_main_process:
        export_run(run, overwrite=True)
        page = write_report(run.path)
        _print_verdict(verdict)
        console.print(f"Backbone: {run.path / 'export'}\nPage:     {page}")
    return run


def _create(store: Store, choice: Choice, out: Path | None, overwrite: bool) -> Run:
    """Make the run's folder: the first process does, and tells the others where it is."""
    where = [""]
    state = processes()
    if state.is_main_process:
        folder = out or _free_folder(store, choice.config)
        facts = _facts(store, choice)  # builds the model: an old run goes only for one that works
        check_trackers(choice.config)
        if overwrite and folder.is_dir():
            Run.remove(folder)
        run = Run.create(folder, choice.config, facts)
        _print_settings(run)
        where = [str(folder)]
    broadcast_object_list(where)
    return Run.open(where[0])


def _number(wanted: Mapping[str, Any]) -> int | None:
    size = wanted.get("batch_size")
    return None if size == "auto" else size


def _fit_batch(choice: Choice, store: Store, wanted: Mapping[str, Any], tune: bool) -> Choice:
    """The same choice with the largest batch that one step on the device can hold."""
    if processes().num_processes > 1:
        raise UsageError("--batch-size auto is for one process: give several a number.")
    size = largest_batch(choice.config)
    found = choose(store, this_machine(), {**wanted, "batch_size": size}, tune=tune)
    reason = f"{size}: the largest that {this_machine().device} held in one trial step"
    return Choice(found.config, {**found.reasons, "batch_size": reason})


def _read_recipe(recipe: Path | None) -> dict[str, Any]:
    """A YAML file of settings, nested or dotted, as dotted settings."""
    if recipe is None:
        return {}
    if not recipe.is_file():
        raise InputMissing(f"There is no recipe at {recipe}.")
    try:
        values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{recipe} is no YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{recipe} must hold settings, one NAME: VALUE a line.")
    return dict(_dotted(values))


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _recipe_data(wanted: Mapping[str, Any]) -> list[str]:
    return [str(wanted["data"])] if "data" in wanted else []


def _free_folder(store: Store, config: PretrainConfig) -> Path:
    """runs/NAME-METHOD, with a number after it where that is taken."""
    name = re.sub(r"-[0-9a-f]{12}-[0-9]+-v[0-9]+$", "", store.path.resolve().name)
    first = Path("runs") / f"{name}-{config.method}"
    folder, number = first, 1
    while folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder


def _facts(store: Store, choice: Choice) -> dict[str, Any]:
    learnt_from, held_out = split_store(choice.config)
    method = build(choice.config, learnt_from)
    backbone = method.backbone
    return {
        "reasons": choice.reasons,
        "environment": this_machine().as_dict(),
        "data": {
            "name": store.path.name,
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


def _print_settings(run: Run) -> None:
    facts, config = run.facts, run.config
    data = facts["data"]
    console.print(
        f"[bold]{config.method}[/bold] on {data['images']:,} images of {data['name']} "
        f"({data['held_out']:,} held out), {config.model.name} with "
        f"{facts['model']['parameters'] / 1e6:.1f} M parameters. Run: {run.path}"
    )
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, reason in facts["reasons"].items():
        table.add_row(name, reason)
    if facts["reasons"]:
        console.print("Chosen for you, as nothing else was asked:")
        console.print(table)


def _print_verdict(verdict: Verdict) -> None:
    console.print(f"\n[bold]{verdict.headline}[/bold]")
    for line in verdict.why:
        console.print(f"  {line}")
    for line in verdict.next:
        console.print(f"  Next: {line}")


@contextmanager
def _bar(run: Run, show: bool) -> Iterator[Watch]:
    """A progress bar with images a second, loss and time left."""
    columns = (
        TextColumn("Training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:,.0f} images/s  loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not show) as bar:
        task = bar.add_task("", total=run.config.steps, speed=0.0, loss=float("nan"))

        def watch(done: int, steps: int, speed: float, loss: float) -> None:
            bar.update(task, completed=done, speed=speed, loss=loss)

        yield watch

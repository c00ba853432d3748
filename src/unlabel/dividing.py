"""DnC's runs, one after another: a base, experts of groups of like images, and their student.

Base and experts are ordinary runs in the folder of the student's, under ``stages``, each with its
own checkpoints. A stage that has ended is known by its exported backbone, so a process that was
killed goes on in the stage where it was, and ends with the same bits.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unlabel.analysis.groups import group_images
from unlabel.atomic import mismatch, write_bytes_atomic
from unlabel.backbones.build import LOCAL, build_backbone
from unlabel.config import ModelConfig, PretrainConfig, validated
from unlabel.data.store import Store
from unlabel.errors import ConfigError, DataError, Preempted
from unlabel.machine import this_machine
from unlabel.methods.dnc import BASE, GROUPS, DnC, DnCOptions, expert, read_groups
from unlabel.methods.parts.multicrop import ViewOptions
from unlabel.methods.registry import get_method
from unlabel.rules import Choice
from unlabel.terminal import console
from unlabel.training.lock import sole_trainer
from unlabel.training.run import Run
from unlabel.training.setup import processes
from unlabel.training.split import FEWEST, split_store
from unlabel.training.verdict import FEWEST_LOOKS

STAGES = "stages"
"""Their folder in the run's, and the run's fact that says how many steps each has."""
MASKS = "masks"
"""The run's fact of the masks that its stages see."""
OF_STAGES = frozenset(["groups", "base_method", "base_options", "shares", "experts_from"])
"""Options that say how base and experts are made."""
LEAST_BATCHES = 2
"""Batches of images that a group must have, so that hardly a batch has an image twice."""
EXPERT_LOOKS = FEWEST_LOOKS - 2
"""Looks at an expert after the first: too few for a verdict, since all held-out images are looked
at, and not those of its group alone."""


def begins_with(config: PretrainConfig) -> PretrainConfig:
    """The settings of the run that is trained first: those of DnC's base, where there is none."""
    if config.method != DnC.name or _options(config).stages is not None:
        return config
    return _stage(config, config.steps)


def divided(choice: Choice, folder: Path) -> tuple[Choice, dict[str, Any]]:
    """Share the steps of a DnC run among its stages; any other choice stays as it is.

    Args:
        choice: its steps are those of all stages together.
        folder: the run's to be.

    Returns:
        The choice of the distillation alone, and what `train_stages` goes by among the run's facts.

    Raises:
        DataError: the images are too few to divide, or the stages that were named are of others.
        ConfigError: the stages that were named are there, and options ask for others.
    """
    config = choice.config
    if config.method != DnC.name:
        return choice, {}
    options = _options(config)
    if options.stages is not None:
        _refuse_options_of_stages(options.stages, config)
        _refuse_other_images(options.stages, config)
        return Choice(_learning_from(config, options.stages), choice.reasons), {}
    _refuse_few_images(config)
    base, experts, last = apportion(config.steps, options.shares)
    why = f"{last}: of {config.steps:,} in all; the base has {base:,}, the experts {experts:,}"
    settled = _learning_from(config, folder / STAGES).model_copy(update={"steps": last})
    steps = {"base": base, "experts": experts, "distillation": last}
    return Choice(settled, {**choice.reasons, "steps": why}), {STAGES: steps}


def train_stages(run: Run, finish: Callable[[Run], object]) -> Run:
    """Train the base and the experts that ``run`` learns from, from wherever they stand.

    Args:
        run: nothing is done for one without stages of its own.
        finish: trains a run to its end and exports its backbone.

    Returns:
        The run, whose settings name the stages where they are now: its folder may have been moved.

    Raises:
        UsageError: another process is training this run.
        Preempted: a signal asked for an end; everything up to the last step is saved.
    """
    if (steps := run.facts.get(STAGES)) is None:
        return run
    run = Run(run.path, _learning_from(run.config, run.path / STAGES))
    with sole_trainer(run), _resumable(run):
        base = _stage(run.config, steps["base"])
        _finish(run, BASE, base, finish, f"Stage 1 of 3, the base: {base.method}")
        _train_experts(run, steps["experts"], finish)
    _tell(f"Stage 3 of 3, the distillation: {steps['distillation']:,} steps")
    return run


def _train_experts(run: Run, steps: int, finish: Callable[[Run], object]) -> None:
    """An expert of each group, with its share of the steps by the images that it has."""
    learnt_from, _ = split_store(run.config)
    rows, group = learnt_from.ids, _groups(run)[learnt_from.ids]
    count = int(group.max()) + 1
    for k, share in enumerate(apportion(steps, np.bincount(group))):
        file = run.path / STAGES / f"{expert(k)}.npy"
        _save_array(file, rows[group == k])
        what = f"Stage 2 of 3, expert {k + 1} of {count}"
        _finish(run, expert(k), _expert(run, share, file), finish, what)


def apportion(total: int, shares: Sequence[float] | np.ndarray) -> list[int]:
    """Whole numbers in proportion to ``shares`` that add up to ``total``; none is below 1."""
    ends = np.rint(np.cumsum(shares) / np.sum(shares) * total).astype(int)
    return [max(1, int(part)) for part in np.diff(ends, prepend=0)]


def _learning_from(config: PretrainConfig, stages: Path) -> PretrainConfig:
    """The settings with the folder of the stages."""
    return config.model_copy(
        update={"options": {**config.options, "stages": str(stages.absolute())}}
    )


def _options(config: PretrainConfig) -> DnCOptions:
    return validated(DnCOptions, config.options, "options of dnc")


def _stage(config: PretrainConfig, steps: int) -> PretrainConfig:
    """The base's settings: the run's own, but for how and how long it learns."""
    options = _options(config)
    matches = issubclass(get_method(options.base_method).Options, ViewOptions)
    views = {name: getattr(options, name) for name in ViewOptions.model_fields if matches}
    return config.model_copy(
        update={
            "method": options.base_method,
            "options": {**views, **options.base_options},
            "steps": steps,
            "keep": (),
        }
    )


def _expert(run: Run, steps: int, rows: Path) -> PretrainConfig:
    """An expert's settings: the base's, but for the images and the weights to start from."""
    config = _stage(run.config, steps)
    update: dict[str, Any] = {"rows": rows.absolute(), "evaluations": EXPERT_LOOKS}
    if _options(run.config).experts_from == "base":
        update["model"] = config.model.model_copy(update={"weights": _exported(run, BASE)})
    return config.model_copy(update=update)


def _exported(run: Run, stage: str) -> str:
    """A stage's backbone as a model's name."""
    return f"{LOCAL}{(run.path / STAGES / stage / 'export').absolute()}"


def _finish(
    run: Run, name: str, config: PretrainConfig, finish: Callable[[Run], object], what: str
) -> None:
    """Train a stage, unless it has ended; make its folder where there is none."""
    path = run.path / STAGES / name
    ended = mismatch(path / "export") is None
    processes().wait_for_everyone()
    if ended:
        return
    images = len(split_store(config)[0])
    _tell(f"{what} on {images:,} images, {config.steps:,} steps")
    if processes().is_main_process and not (path / "config.yaml").is_file():
        if path.is_dir():  # of a process that was killed here
            Run.remove(path)
        kept = {key: run.facts[key] for key in ("environment", "model")}
        data = {**run.facts["data"], "images": images, "layers": run.facts.get(MASKS, {})}
        Run.create(path, config, {**kept, "reasons": {}, "data": data})
    processes().wait_for_everyone()
    finish(Run(path, config))
    processes().wait_for_everyone()


def _groups(run: Run) -> np.ndarray:
    """The group of each row of the store, by what the base makes of the images."""
    folder, config = run.path / STAGES, run.config
    if processes().is_main_process and not (folder / GROUPS).is_file():
        learnt_from, held_out = split_store(config)
        device = this_machine().device
        base = build_backbone(ModelConfig(name=_exported(run, BASE))).to(device).eval()
        found = group_images(
            base,
            learnt_from,
            held_out,
            groups=_most_groups(config),
            least=_least(config),
            seed=config.seed,
            device=device,
        )
        _save_array(folder / GROUPS, found)
        sizes = ", ".join(f"{size:,}" for size in np.bincount(found[learnt_from.ids]))
        _tell(f"Groups of {sizes} images, by k-means of what the base makes of them")
    processes().wait_for_everyone()
    return read_groups(folder)


def _least(config: PretrainConfig) -> int:
    """Images that a group must have."""
    return max(FEWEST, LEAST_BATCHES * config.batch_size)


def _most_groups(config: PretrainConfig) -> int:
    return min(_options(config).groups, len(split_store(config)[0]) // _least(config))


def _refuse_few_images(config: PretrainConfig) -> None:
    if _most_groups(config) < 2:
        raise DataError(
            f"dnc divides the images into groups of at least {_least(config):,}, {LEAST_BATCHES} "
            f"batches, and there are {len(split_store(config)[0]):,} to learn from. Use a smaller "
            "--batch-size, or another --method for so few images."
        )


def _refuse_options_of_stages(stages: Path, config: PretrainConfig) -> None:
    """Raise ConfigError for options of stages that are not those which the named ones have."""
    ours, owner = _options(config), stages.parent
    theirs = _options(Run.open(owner).config) if (owner / "config.yaml").is_file() else None
    asked = OF_STAGES & set(config.options)
    if idle := sorted(n for n in asked if getattr(ours, n) != getattr(theirs, n, None)):
        raise ConfigError(
            f"options.stages: the base and the experts of {stages} are there already, and "
            f"options.{', options.'.join(idle)} would change nothing. Leave these out, or "
            "options.stages to have others trained."
        )


def _refuse_other_images(stages: Path, config: PretrainConfig) -> None:
    """Raise DataError where stages that are named were trained on other images."""
    group = read_groups(stages)
    began_with = Run.open(stages / BASE).facts.get("data", {}).get("fingerprint")
    if began_with != Store.open(config.data).fingerprint:
        raise DataError(
            f"options.stages: {stages} was trained on other images than those of {config.data}. "
            "Name that store, or leave the option out to have the stages trained."
        )
    rows = np.concatenate([images.ids for images in split_store(config)])
    if strangers := int((group[rows] < 0).sum()):
        raise DataError(
            f"options.stages: {strangers:,} of the {len(rows):,} images are in no group of "
            f"{stages}, whose run neither learnt from them nor held them out. Give the rows and "
            "validation settings of that run, or leave options.stages out."
        )


def _save_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file, in the first process."""
    if processes().is_main_process:
        file = io.BytesIO()
        np.save(file, array)
        write_bytes_atomic(path, file.getvalue())


def _tell(text: str) -> None:
    if processes().is_main_process:
        console.print(text, style="bold", markup=False)


@contextmanager
def _resumable(run: Run) -> Iterator[None]:
    """An end that was asked for says how the run, and not the stage in it, goes on."""
    try:
        yield
    except (Preempted, KeyboardInterrupt) as stop:
        raise type(stop)(
            "A stage was stopped, and what was trained is saved. "
            f"Continue with: unlabel pretrain --resume {run.path}"
        ) from stop

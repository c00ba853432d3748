"""Why a run is as it is where no rule chose: what follows from the machine, method and store."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch

from unlabel.config import PretrainConfig
from unlabel.data.store import Store
from unlabel.machine import Machine
from unlabel.training.schedule import scale_lr, warmup_steps
from unlabel.training.setup import precision
from unlabel.training.split import HELD_OUT

OPTIMISER = ("optim.optimizer", "optim.lr", "optim.schedule")


def reasons(
    config: PretrainConfig,
    chosen: Mapping[str, str],
    asked: Collection[str],
    machine: Machine,
    held_out: Store,
) -> dict[str, str]:
    """Every choice with its reason, as "VALUE: WHY", by the setting's dotted name.

    Args:
        config: the run's settings.
        chosen: the reasons of what the rules chose, which come first.
        asked: names of the settings that were asked for, which need no reason.
        machine: where it runs.
        held_out: the images for the monitors.
    """
    optim, recipe = config.optim, f"{config.method}'s recipe"
    warm = warmup_steps(optim, config.steps)
    peak = optim.lr * scale_lr(optim, config.batch_size)
    warming = f"{_count(warm, 'step')} of warm-up"
    rates = f"{config.batch_size} images a step make it {peak:.2g}"
    found = {
        "device": _device(machine),
        "precision": _precision(config, machine),
        "optim.optimizer": f"{optim.optimizer}: {recipe}",
        "optim.lr": f"{optim.lr:g}: {recipe}; {rates}",
        "optim.schedule": f"{optim.schedule}: {recipe}, after {warming}",
        "held-out images": _held_out(config, held_out),
    }
    if tests := held_out.info.splits.get("test"):
        found["test images"] = f"{tests:,}: left out, so that the run can be judged by them"
    new = {name: found[name] for name in found if name not in chosen and name not in asked}
    scaled = {name: f"{chosen[name]}; {rates}" for name in chosen if name == "optim.lr"}
    return {**chosen, **scaled, **new}


def doubts(config: PretrainConfig, images: int, median_side: int) -> Iterator[str]:
    """What was asked for and can be done, but hardly as it was meant.

    Args:
        config: the run's settings.
        images: how many it learns from.
        median_side: the median of their shorter sides, in pixels.
    """
    if config.batch_size > images:
        yield (
            f"a batch of {config.batch_size} is more than the {images:,} images to learn from: "
            "each stands in a step more than once, as if it were another image. Choose a smaller "
            "--batch-size."
        )
    size = config.model.image_size
    if size is not None and size >= 2 * median_side:
        yield f"images of {median_side} px are enlarged to {size}: more time for no more detail."


def _device(machine: Machine) -> str:
    if machine.device == "cpu":
        return f"cpu: no accelerator was found; {_count(machine.threads, 'thread')}"
    return f"{machine.device}: {machine.accelerator}"


def _precision(config: PretrainConfig, machine: Machine) -> str:
    name = "bf16" if precision(config) == torch.bfloat16 else "fp32"
    does = "multiplies" if machine.bf16 else "does not multiply"
    return f"{name}: this {machine.device} {does} in bf16"


def _held_out(config: PretrainConfig, held_out: Store) -> str:
    if "validation" in held_out.info.splits:
        return f"{len(held_out):,}: of the store's validation split"
    share = f"{config.validation_fraction:.0%} of the images"
    return f"{len(held_out):,}: {share}; of few images {HELD_OUT}, or a quarter where that is less"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"

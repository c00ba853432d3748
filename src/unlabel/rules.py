"""What ``unlabel pretrain photos/`` chooses when nothing is said, and why.

Every rule looks only at the number and the size of the images and at the machine, and leaves a
sentence that is printed, kept in the run's ``run.json`` and shown on its page. docs/rules.md is
the same list for readers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlabel.adapting import SMALL, Picker, adapt, learners
from unlabel.backbones.build import family_of
from unlabel.backbones.resnet import ResNet
from unlabel.backbones.swin import SwinV2
from unlabel.backbones.vit import ViT
from unlabel.config import ModelConfig, PretrainConfig, dotted, nested, validated
from unlabel.data.store import Store
from unlabel.errors import UsageError
from unlabel.machine import Machine
from unlabel.methods.parts.multicrop import ViewOptions
from unlabel.methods.registry import get_method
from unlabel.methods.relicv2 import PUBLISHED_BACKGROUND
from unlabel.training.split import left_to_learn, read_rows

PAPER_SAMPLES = 300 * 1_281_167
"""Images seen in 300 epochs of ImageNet-1k, SplitMask's length for every data set (Table 3)."""
PAPER_EPOCHS = 5000
"""SplitMask's longest run on a small data set (Table 3)."""
PROCESSOR_SIDE = 128
"""Largest crop on a processor, in pixels: twice the side takes four times as long."""
PROCESSOR_SAMPLES = {True: 1_000_000, False: 100_000}
"""Images seen without an accelerator, small images and others."""


@dataclass(frozen=True)
class Choice:
    """A complete configuration and the reason for each value that a rule chose."""

    config: PretrainConfig
    reasons: dict[str, str]


def choose(
    store: Store, machine: Machine, asked: Mapping[str, Any], *, tune: bool = True
) -> Choice:
    """Fill in what was not asked for.

    Args:
        store: the images to learn from.
        machine: where the run will be.
        asked: dotted settings ("method", "model.name", "steps", "optim.lr", ...) and "epochs".
            ``None`` leaves to the rules what they choose, and turns off what they do not.
        tune: whether a method's short-run settings may be chosen; a recipe speaks for itself.

    Raises:
        UsageError: both steps and epochs were given.
        ConfigError: a setting is unknown or cannot work.
    """
    refuse_two_lengths(asked)
    splits = store.info.splits
    images = len(store) - splits.get("validation", 0) - splits.get("test", 0)
    if asked.get("rows") is not None:
        images = min(images, len(read_rows(Path(asked["rows"]), store)))
    pick = Picker(dict(dotted(asked)))
    patches = asked.get("model.patch_size") is not None
    method = get_method(pick("method", *method_for(asked, machine)))
    size = pick("model.image_size", *_image_size(store.info.median_side, machine))
    convolutional = issubclass(method.Options, ViewOptions) and not patches
    name = pick("model.name", *_model(convolutional, images, size, machine))
    family = family_of(ModelConfig(name=name))
    if family is ViT:
        pick("model.patch_size", *_patch_size(size, machine))
    batch = pick("batch_size", *_batch_size(_learnt_from(images, splits, pick), machine))
    for group, options in learners(method, pick):
        if "background" in options.model_fields:
            pick(f"{group}.background", *_background("foreground" in store.layers))
    if tune:
        adapt(pick, method, family, size, batch, machine)
    pick("steps", *_steps(images, batch, size, machine, asked.get("epochs")))
    pick("workers", *_workers(machine))
    drop_path = 0.0 if family is ResNet else method.drop_path  # the papers' transformers'
    recipe = {
        "data": str(store.path.resolve()),
        "model": {"in_chans": store.info.channels, "drop_path": drop_path},
        "optim": method.recipe.model_dump(),
    }
    settings = {key: value for key, value in pick.settings.items() if key != "epochs"}
    complete = _merged(recipe, nested(settings))
    return Choice(validated(PretrainConfig, complete, "The run's settings"), pick.reasons)


def method_for(asked: Mapping[str, Any], machine: Machine) -> tuple[str, str]:
    """By the kind of network where one was asked for, else by how long a run can be."""
    model = asked.get("model.name") or ("vit_micro" if asked.get("model.patch_size") else None)
    if model is not None:
        suits = {ResNet: "simclr", SwinV2: "simmim", ViT: "splitmask"}
        return suits[family_of(ModelConfig(name=model))], f"suits {model}"
    if machine.device == "cpu":
        return "simclr", "matching views learns most in minutes on a processor"
    return "splitmask", "learns from few images where there is time, and needs no labels"


def refuse_two_lengths(asked: Mapping[str, Any]) -> None:
    """Raise UsageError where steps and epochs were both given."""
    if asked.get("steps") is not None and asked.get("epochs") is not None:
        raise UsageError("Give --steps or --epochs, not both: one follows from the other.")


def _image_size(side: int, machine: Machine) -> tuple[int, str]:
    if side <= SMALL:
        size = max(8, 4 * (side // 4))
        return size, f"the images' shorter side is {side} px, kept whole"
    if machine.device == "cpu" and side > PROCESSOR_SIDE:
        return PROCESSOR_SIDE, f"at most {PROCESSOR_SIDE} px on a processor, for speed"
    size = 224 if side >= 192 else 16 * (side // 16)
    return size, f"the images' shorter side is {side} px; backbones are used at up to 224"


def _patch_size(size: int, machine: Machine) -> tuple[int, str]:
    if machine.device == "cpu" and size <= SMALL and size % 4 == 0:
        return size // 4, "4 x 4 patches: few enough to learn from in minutes on a processor"
    for patch, upto in ((4, 40), (8, 80), (16, 4096)):
        if size <= upto and size % patch == 0:
            return patch, f"{size // patch} x {size // patch} patches"
    patch = math.gcd(size, 16)
    return patch, f"{size // patch} x {size // patch} patches"


def _model(convolutional: bool, images: int, size: int, machine: Machine) -> tuple[str, str]:
    if convolutional:
        if machine.device == "cpu":
            return "resnet_nano", "convolutions learn soonest on a processor: 1.2 M parameters"
        if images < 100_000:
            return "resnet18", f"{images:,} images"
        return "resnet50", f"{images:,} images"
    if machine.device == "cpu":
        if size <= SMALL:
            return "vit_nano", "small images on a processor: 0.8 M parameters"
        return "vit_micro", "a processor without an accelerator: 2.7 M parameters"
    if size <= SMALL and images < 100_000:
        return "vit_micro", f"{images:,} small images"
    if images >= 1_000_000 and (machine.accelerator_memory or 0) >= 40:
        return "vit_base_patch16_224", f"{images:,} images and a large accelerator"
    return "vit_small_patch16_224", f"{images:,} images"


def _background(masks: bool) -> tuple[float, str]:
    if masks:
        return PUBLISHED_BACKGROUND, "the store has foreground masks"
    return 0.0, "the store has no foreground masks"


def _learnt_from(images: int, splits: Collection[str], pick: Picker) -> int:
    """How many of the images for training and validation the run learns from."""
    if "validation" in splits:  # they are not counted among these
        return images
    names = ("validation_fraction", "validation_images")
    asked = {name: pick.settings[name] for name in names if pick.settings.get(name) is not None}
    config = PretrainConfig.model_construct(**asked)
    return left_to_learn(max(1, images), config.validation_fraction, config.validation_images)


def _batch_size(images: int, machine: Machine) -> tuple[int, str]:
    most = 128 if machine.device == "cpu" else 512
    fits = 2 ** max(0, int(math.log2(max(1, images // 4))))
    batch = min(most, fits)
    why = (
        "a quarter of the images to learn from" if fits < most else f"sized for a {machine.device}"
    )
    return batch, why


def _steps(
    images: int, batch: int, size: int, machine: Machine, epochs: float | None
) -> tuple[int, str]:
    if epochs is not None:
        return max(1, math.ceil(epochs * images / batch)), f"{epochs:g} epochs of {images:,} images"
    samples = min(PAPER_SAMPLES, PAPER_EPOCHS * images)
    why = "as many images seen as in SplitMask's paper: 300 ImageNet epochs, at most 5,000 of yours"
    if machine.device == "cpu":
        samples = min(samples, PROCESSOR_SAMPLES[size <= SMALL])
        why = "shortened for a processor; an accelerator would be given more"
    steps = max(1, math.ceil(samples / batch))
    return steps, f"{steps * batch / images:,.0f} epochs: {why}"


def _cores() -> int:
    """Processors that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _workers(machine: Machine) -> tuple[int, str]:
    cores = max(1, _cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if machine.device == "cpu" and cores == 1:
        return 0, "one processor reads images and computes in turn"
    if machine.device == "cpu":
        return 1, "one process reads images while the others compute"
    return min(16, max(1, cores - 1)), f"{cores} processors feed one accelerator"


def _merged(chosen: dict[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What was chosen, with what was asked for in its place, group by group."""
    merged = dict(chosen)
    for name, value in asked.items():
        both_groups = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if both_groups else value
    return merged

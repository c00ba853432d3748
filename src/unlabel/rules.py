"""What ``unlabel pretrain photos/`` chooses when nothing is said, and why.

Every rule looks only at the number and the size of the images and at the machine, and leaves a
sentence that is printed, kept in the run's ``run.json`` and shown on its page. docs/rules.md is
the same list for readers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unlabel.backbones.base import Backbone
from unlabel.backbones.build import family_of
from unlabel.backbones.resnet import ResNet
from unlabel.backbones.swin import SwinV2
from unlabel.backbones.vit import ViT
from unlabel.config import ModelConfig, PretrainConfig, nested, validated
from unlabel.data.store import Store
from unlabel.errors import UsageError
from unlabel.machine import Machine
from unlabel.methods.base import Method
from unlabel.methods.parts.multicrop import ViewOptions
from unlabel.methods.registry import get_method
from unlabel.methods.relicv2 import PUBLISHED_BACKGROUND

SMALL = 64
"""Images with a shorter side of at most this many pixels count as small."""
PAPER_SAMPLES = 300 * 1_281_167
"""Images seen in 300 epochs of ImageNet-1k, SplitMask's length for every data set (Table 3)."""
PAPER_EPOCHS = 5000
"""SplitMask's longest run on a small data set (Table 3)."""
PROCESSOR_SIDE = 128
"""Largest crop on a processor, in pixels: twice the side takes four times as long."""
LARS_FROM = 1024
"""Images a step from which LARS is used where a method's recipe has it: its trust ratio is meant
for thousands (BYOL, SimCLR: 4,096)."""
SMALL_CROP = 0.2
"""Least share of a small image that a large crop covers (MoCo v3's for ResNets)."""
STRONG_COLOURS = ("simclr", "swav")
"""Recipes with twice the jitter of the others."""
SMALL_BATCH_SGD = {
    "optimizer": "sgd",
    "lr": 0.2,
    "scale_lr": "sqrt",
    "betas": (0.9, 0.999),
    "weight_decay": 5e-4,
}
"""In its place for ResNets. The decay is that of Lightly's CIFAR-10 benchmark; its rate is 0.12 at
256 images for 200 epochs and more, and ours, for shorter runs, is higher (not tuned). The root of
the batch is SimCLR's rule for small ones."""
SMALL_BATCH_ADAMW = {"optimizer": "adamw", "lr": 5e-4, "betas": (0.9, 0.95), "weight_decay": 0.05}
"""In its place for transformers, at any batch size (rate: DINO's; LARS is for convolutions)."""
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": SMALL_BATCH_SGD,
    "adamw": SMALL_BATCH_ADAMW,
    "lars": {"lr": 0.3, "betas": (0.9, 0.999), "weight_decay": 1e-6},
}
"""What each optimiser starts from where a recipe has another; LARS's values are SimCLR's."""
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
    pick = _Picker(asked)
    patches = asked.get("model.patch_size") is not None
    method = get_method(pick("method", *method_for(asked, machine)))
    size = pick("model.image_size", *_image_size(store.info.median_side, machine))
    convolutional = issubclass(method.Options, ViewOptions) and not patches
    name = pick("model.name", *_model(convolutional, images, size, machine))
    family = family_of(ModelConfig(name=name))
    if family is ViT:
        pick("model.patch_size", *_patch_size(size, machine))
    batch = pick("batch_size", *_batch_size(images, machine))
    if "background" in method.Options.model_fields:
        pick("options.background", *_background("foreground" in store.layers))
    if tune:
        _adapt(pick, method, family, size, batch, machine)
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


class _Picker:
    """Takes what was asked for, and otherwise what a rule says, with its reason."""

    def __init__(self, asked: Mapping[str, Any]) -> None:
        self.settings = dict(asked)
        self.reasons: dict[str, str] = {}

    def __call__(self, name: str, value: Any, reason: str) -> Any:
        if self.settings.get(name) is None:
            self.settings[name] = value
            self.reasons[name] = f"{value}: {reason}"
        return self.settings[name]


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


def _adapt(
    pick: _Picker,
    method: type[Method],
    family: type[Backbone],
    size: int,
    batch: int,
    machine: Machine,
) -> None:
    """Settings that published recipes, made for large images and batches, need changed here."""
    convolutional = family is ResNet
    short = machine.device == "cpu" and size <= SMALL
    if short and convolutional:
        pick("model.enlarge", 2, "faster: the first stage sees one cell every second pixel")
    if short:
        for key, value in _short_run(method, pick.settings.get("optim.optimizer")).items():
            pick(key, value, "for short runs on small images")
    if issubclass(method.Options, ViewOptions) and size <= SMALL:
        pick("options.blur", False, "it hides most of a small image (SimCLR for CIFAR-10)")
        if "small" in method.Options.model_fields:
            pick("options.small", 0, "a small crop of a small image shows next to nothing")
        if method.Options.model_fields["scale"].default[0] < SMALL_CROP:
            pick("options.scale", (SMALL_CROP, 1.0), "less of a small image shows too little")
        default = method.Options.model_fields["colours"].default
        if (pick.settings.get("options.colours") or default) in STRONG_COLOURS:
            pick("options.strength", 0.5, "half the jitter for small images (SimCLR for CIFAR-10)")
    _adapt_optimizer(pick, method, convolutional, batch)


def _short_run(method: type[Method], optimizer: str | None) -> Mapping[str, Any]:
    """The method's settings for short runs; another optimiser that is asked for has its own."""
    settings = method.short_run
    chosen = settings.get("optim.optimizer", method.recipe.optimizer)
    if optimizer in (None, chosen):
        return settings
    return {key: value for key, value in settings.items() if not key.startswith("optim.")}


def _adapt_optimizer(pick: _Picker, method: type[Method], convolutional: bool, batch: int) -> None:
    """Another optimiser than the recipe's comes with a rate, decays and momentum of its own."""
    own, asked = method.recipe.optimizer, pick.settings.get("optim.optimizer")
    if own != "lars" or (convolutional and batch >= LARS_FROM):
        fits, why = own, ""
    elif convolutional:
        fits, why = "sgd", f"LARS is for batches of {LARS_FROM:,} and more"
    else:
        fits, why = "adamw", "LARS is for ResNets"
    if (asked or fits) == own:
        return
    recipe, why = method.recipe, f"suits {asked}" if asked else why
    values = OPTIMIZERS.get(asked or fits, {})
    if recipe.min_lr and pick.settings.get("optim.lr") is None and values:
        pick("optim.min_lr", recipe.min_lr * values["lr"] / recipe.lr, why)
    for key, value in values.items():
        pick(f"optim.{key}", value, why)
    pick.settings.setdefault("optim.weight_decay_end", None)  # another decay does not climb


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


def _batch_size(images: int, machine: Machine) -> tuple[int, str]:
    most = 128 if machine.device == "cpu" else 512
    fits = 2 ** max(0, int(math.log2(max(1, images // 4))))
    batch = min(most, fits)
    why = "a quarter of the images at most" if fits < most else f"sized for a {machine.device}"
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

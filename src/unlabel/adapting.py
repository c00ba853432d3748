"""What published recipes need changed for small images, small batches and short runs.

They were made for large images, thousands of them a step, and days.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from unlabel.backbones.base import Backbone
from unlabel.backbones.resnet import ResNet
from unlabel.config import Settings
from unlabel.machine import Machine
from unlabel.methods.base import Method
from unlabel.methods.parts.multicrop import ViewOptions
from unlabel.methods.registry import get_method

SMALL = 64
"""Images with a shorter side of at most this many pixels count as small."""
LARS_FROM = 1024
"""Images a step from which LARS is used where a method's recipe has it: its trust ratio is meant
for thousands (BYOL, SimCLR: 4,096)."""
SMALL_CROP = 0.2
"""Least share of a small image that a large crop covers (MoCo v3's for ResNets)."""
STRONG_COLOURS = ("simclr", "swav")
"""Recipes with twice the jitter of the others."""
SMALL_BATCH_SGD = {
    "lr": 0.2,
    "scale_lr": "sqrt",
    "betas": (0.9, 0.999),
    "weight_decay": 5e-4,
}
"""In its place for ResNets. The decay is that of Lightly's CIFAR-10 benchmark; its rate is 0.12 at
256 images for 200 epochs and more, and ours, for shorter runs, is higher (not tuned). The root of
the batch is SimCLR's rule for small ones."""
SMALL_BATCH_ADAMW = {"lr": 5e-4, "betas": (0.9, 0.95), "weight_decay": 0.05}
"""In its place for transformers, at any batch size (rate: DINO's; LARS is for convolutions)."""
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": SMALL_BATCH_SGD,
    "adamw": SMALL_BATCH_ADAMW,
    "lars": {"lr": 0.3, "betas": (0.9, 0.999), "weight_decay": 1e-6},
}
"""What each optimiser starts from where a recipe has another; LARS's values are SimCLR's."""


class Picker:
    """Takes what was asked for, and otherwise what a rule says, with its reason."""

    def __init__(self, asked: Mapping[str, Any]) -> None:
        self.settings = dict(asked)
        self.reasons: dict[str, str] = {}

    def __call__(self, name: str, value: Any, reason: str) -> Any:
        """The setting's value: ``value``, for this reason, where none was asked for."""
        if self.settings.get(name) is None:
            self.settings[name] = value
            self.reasons[name] = f"{value}: {reason}"
        return self.settings[name]


def adapt(
    pick: Picker,
    method: type[Method],
    family: type[Backbone],
    size: int,
    batch: int,
    machine: Machine,
) -> None:
    """Pick what the recipe's place needs.

    Args:
        pick: what was asked for and chosen so far.
        method: whose recipe it is.
        family: of the backbone.
        size: of the crops, in pixels.
        batch: images a step.
        machine: where the run will be.
    """
    convolutional = family is ResNet
    short = machine.device == "cpu" and size <= SMALL
    if short and convolutional and size > 8:  # at 8 pixels it would leave less than a cell
        pick("model.enlarge", 2, "faster: the first stage sees one cell every second pixel")
    if short:
        for key, value in _short_run(method, pick.settings.get("optim.optimizer")).items():
            pick(key, value, "for short runs on small images")
    if issubclass(method.Options, ViewOptions) and size <= SMALL:
        pick("options.blur", False, "it hides most of a small image (SimCLR for CIFAR-10)")
        for group, options in learners(method, pick):
            if "small" in options.model_fields:
                pick(f"{group}.small", 0, "a small crop of a small image shows next to nothing")
        published = method.Options.model_fields["scale"].default[0]
        # DINO's are larger, for students whose small crops see the parts.
        if published < SMALL_CROP or pick.settings.get("options.small") == 0:
            pick("options.scale", (SMALL_CROP, 1.0), "less of a small image shows too little")
        default = method.Options.model_fields["colours"].default
        if (pick.settings.get("options.colours") or default) in STRONG_COLOURS:
            pick("options.strength", 0.5, "half the jitter for small images (SimCLR for CIFAR-10)")
    _adapt_optimizer(pick, method, convolutional, batch)


def learners(method: type[Method], pick: Picker) -> Iterator[tuple[str, type[Settings]]]:
    """The groups of the method's own options, and of those of the base that DnC trains."""
    yield "options", method.Options
    base = method.Options.model_fields.get("base_method")
    if base is not None and pick.settings.get("options.stages") is None:
        asked = pick.settings.get("options.base_method") or base.default
        yield "options.base_options", get_method(asked).Options


def _short_run(method: type[Method], optimizer: str | None) -> Mapping[str, Any]:
    """The method's settings for short runs; another optimiser that is asked for has its own."""
    settings = method.short_run
    chosen = settings.get("optim.optimizer", method.recipe.optimizer)
    if optimizer in (None, chosen):
        return settings
    return {key: value for key, value in settings.items() if not key.startswith("optim.")}


def _adapt_optimizer(pick: Picker, method: type[Method], convolutional: bool, batch: int) -> None:
    """Another optimiser than the recipe's comes with a rate, decays and momentum of its own."""
    own, asked = method.recipe.optimizer, pick.settings.get("optim.optimizer")
    if own != "lars" or (convolutional and batch >= LARS_FROM):
        fits, why = own, ""
    elif convolutional:
        fits, why = "sgd", f"LARS is for batches of {LARS_FROM:,} and more"
    else:
        fits, why = "adamw", "LARS is for ResNets"
    name, recipe = asked or fits, method.recipe
    if name == own:
        return
    pick("optim.optimizer", name, why)
    values = OPTIMIZERS.get(name, {})
    if recipe.min_lr and values:
        rate = pick.settings.get("optim.lr") or values["lr"]
        pick("optim.min_lr", recipe.min_lr * rate / recipe.lr, f"goes with {name}")
    for key, value in values.items():
        pick(f"optim.{key}", value, f"goes with {name}")
    pick.settings.setdefault("optim.weight_decay_end", None)  # another decay does not climb

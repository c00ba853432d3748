"""Every knob of a run: what it means, its default and where the default comes from.

A method's own options stand in the method's file; what is common to all methods stands here.
The models refuse unknown names and impossible values with the field's name and what is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from unlabel.errors import ConfigError

S = TypeVar("S", bound=BaseModel)


class Settings(BaseModel):
    """Base of every group of settings: frozen, and strict about names.

    The string below a setting is its description in docs/settings.md.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = str(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and ("float" in annotation or "int" in annotation):
            raise ValueError("must be a number, not yes or no")
        return value


def _in_order(scale: tuple[float, float]) -> tuple[float, float]:
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError("must be two numbers above 0 and at most 1, the smaller one first")
    return scale


Scale = Annotated[tuple[float, float], AfterValidator(_in_order)]
"""Smallest and largest share of an image's area that a random crop covers."""


class ModelConfig(Settings):
    """Which backbone, and from what it starts."""

    name: str = "vit_small_patch16_224"
    """A timm name (ViT, SwinV2 or ResNet), or one of unlabel's small and study sizes."""
    image_size: int | None = Field(None, ge=8, le=2048)
    """Side of the square training crop in pixels; the model's own size when not given."""
    patch_size: int | None = Field(None, ge=1, le=64)
    """Side of a patch in pixels, for ViT and SwinV2; the model's own when not given."""
    in_chans: int = Field(3, ge=1, le=64)
    """Channels of the images."""
    width: Literal[1, 2, 4] = 1
    """Width multiplier of a ResNet: every group and the stem (RELICv2, section 1.5)."""
    enlarge: int | None = Field(None, ge=1, le=16)
    """How many times a ResNet's input is repeated in height and width. When not given, small images
    are, to at most 128 pixels, so that the first stage sees every pixel; less is faster."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Stochastic depth of the last block; earlier blocks have proportionally less."""
    weights: str | None = None
    """None for a random start, ``"timm"`` for timm's pretrained weights, or a local file."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Further keyword arguments of ``timm.create_model``."""


class OptimConfig(Settings):
    """Optimiser and schedule. Each method declares its published values as its ``recipe``."""

    optimizer: Literal["adamw", "lars", "sgd"] = "adamw"
    """LARS and SGD move with momentum; LARS also scales each layer's step to its weights."""
    lr: float = Field(1.5e-4, gt=0)
    """Peak learning rate at 256 images a step."""
    min_lr: float = Field(0.0, ge=0)
    """Learning rate that the cosine ends at, also at 256 images a step."""
    scale_lr: Literal["linear", "sqrt", "none"] = "linear"
    """How both follow the batch: times batch size / 256, times its square root, or not at all."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates; LARS and SGD take the first as their momentum."""
    eps: float = Field(1e-8, gt=0)
    """Added to AdamW's denominator."""
    weight_decay: float = Field(0.05, ge=0)
    """Not applied to biases, norms and what the method or timm exempts."""
    weight_decay_end: float | None = Field(None, ge=0)
    """Weight decay that a cosine over the run ends at (DINO); ``weight_decay`` throughout when not
    given."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Factor of the learning rate from each block to the one below it; 1 is none."""
    clip_grad: float | None = Field(None, gt=0)
    """Largest norm of the whole gradient."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """``step``: constant for 7/8 of the run, then a tenth. ``constant``: then linear to zero over
    the last ``decay`` of the run."""
    decay: float = Field(0.2, gt=0, le=1)
    """Share of the run over which the ``constant`` schedule decays."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the run over which the learning rate climbs from zero."""
    warmup_steps: int | None = Field(None, ge=0)
    """Updates over which it climbs, in place of ``warmup``: the same for runs of any length."""

    @model_validator(mode="after")
    def _falls(self) -> OptimConfig:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr: {self.min_lr:g} is above lr, {self.lr:g}; lower it as well")
        return self


class PretrainConfig(Settings):
    """One pre-training run, complete: two runs of one config on one machine give the same bits."""

    data: Path
    """The store to learn from."""
    rows: Annotated[Path, AfterValidator(Path.absolute)] | None = None
    """A NumPy file (.npy) of row numbers of the store: learn from these images alone. Which images
    are held out for the monitors does not depend on it. All of them when not given."""
    method: str = "splitmask"
    """How to learn, by name."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The method's own options; see its card."""
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    steps: int = Field(1000, ge=1)
    """Updates of the weights."""
    batch_size: int = Field(256, ge=1)
    """Images of one update, over all processes and accumulated micro-batches together."""
    accumulate: int = Field(1, ge=1)
    """Micro-batches that one update is made of; must divide the batch size."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Everything that is random follows from it."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto`` is bf16 where the processor multiplies in it, else fp32."""
    average: float | None = Field(None, gt=0, lt=1)
    """Decay of an exponential average of the backbone's weights, such as 0.999, which is then
    exported and evaluated in place of the last weights. None keeps no average."""
    compile: bool = False
    """Compile the method with ``torch.compile``: slower to start, faster to run."""
    workers: int = Field(0, ge=0)
    """Processes that read images beside each training process."""
    validation_fraction: float = Field(0.05, ge=0, lt=0.5)
    """Share of the images held out for the monitors, where the store names no validation split; 16
    images or a quarter of them, whichever is less, are held out in any case."""
    validation_images: int = Field(1024, ge=1)
    """Most held-out images that the monitors look at."""
    validation_seed: int | None = Field(None, ge=0, lt=2**32)
    """Which images are held out, and their crops and masks, follow from it; from ``seed`` when not
    given. Runs of several seeds that share it are judged alike."""
    evaluations: int = Field(20, ge=1)
    """How many times over the run the monitors look at the held-out images and a checkpoint is
    written. A killed run loses at most one such stretch."""
    keep: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Updates after which a checkpoint is written that stays, beside the last and the best."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ("tensorboard",)
    """Where scalars go besides ``metrics.jsonl``; each but TensorBoard needs its own package."""

    @property
    def held_out_seed(self) -> int:
        """The seed of the held-out images and of how they are looked at."""
        return self.seed if self.validation_seed is None else self.validation_seed


def _fields(model: type[BaseModel], place: tuple[int | str, ...]) -> dict[str, FieldInfo]:
    """The settings there are beside the one at ``place``; none where that lies within a value."""
    group: Any = model
    for part in place[:-1]:
        group = group.model_fields[part].annotation if part in group.model_fields else None
        if not (isinstance(group, type) and issubclass(group, BaseModel)):
            return {}
    return group.model_fields


def _known(model: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """The settings there are where an unknown one was given, the nearest first."""
    names = _fields(model, place)
    near = get_close_matches(str(place[-1]), names, n=1)
    known = f" There are: {', '.join(names)}." if names else ""
    return (f" Did you mean {near[0]}?" if near else "") + known


def _null(model: type[BaseModel], place: tuple[int | str, ...], value: object) -> str:
    """How to write no value, for who wrote it otherwise where there may be none."""
    if not isinstance(value, str) or value not in ("none", "None"):
        return ""
    field = _fields(model, place).get(str(place[-1]))
    return ". For no value write null." if field and NoneType in get_args(field.annotation) else ""


def explain(error: ValidationError, subject: str, model: type[BaseModel]) -> ConfigError:
    """Turn pydantic's errors into one message: each field, what came, what is allowed."""
    lines = []
    for e in error.errors():
        where = ".".join(str(part) for part in e["loc"]) or subject
        if e["type"] == "extra_forbidden":
            lines.append(f"  {where}: there is no such setting.{_known(model, e['loc'])}")
            continue
        came = "" if e["type"] == "missing" else f" (came: {e['input']!r})"
        null = _null(model, e["loc"], e["input"]) if e["loc"] else ""
        lines.append(f"  {where}: {e['msg'].removeprefix('Value error, ')}{came}{null}")
    return ConfigError(f"{subject} cannot work:\n" + "\n".join(lines))


def validated(model: type[S], values: dict[str, Any], subject: str) -> S:
    """Build ``model`` from ``values``.

    Raises:
        ConfigError: naming every field that is unknown or out of range.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise explain(error, subject, model) from None


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as nested groups: ``{"optim.lr": 1}`` becomes ``{"optim": {"lr": 1}}``.

    Raises:
        ConfigError: a name is a value and a group at once.
    """
    values: dict[str, Any] = {}
    for dotted, value in settings.items():
        *path, last = dotted.split(".")
        group = values
        for part in path:
            group = group.setdefault(part, {})
            if not isinstance(group, dict):
                raise ConfigError(f"{dotted}: {part} is a value and cannot be a group as well.")
        group[last] = value
    return values


def dotted(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested groups as dotted names: the reverse of `nested`."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

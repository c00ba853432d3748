"""DnC: one student of a base network and of experts, each of a group of like images.

Tian et al., "Divide and Contrast: Self-supervised Learning from Uncurated Data" (2021). This is the
last of its three stages; ``unlabel.dividing`` divides the images and trains the base and the
experts. Shapes: B images, D features, K groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import one_hot

from unlabel.backbones.base import Backbone
from unlabel.backbones.build import LOCAL, build_backbone
from unlabel.config import ModelConfig, OptimConfig, Settings, validated
from unlabel.data.spec import Batch
from unlabel.errors import ConfigError, DataError, InputMissing
from unlabel.methods.base import DataInfo, Losses, Method, Progress
from unlabel.methods.parts.frozen import Frozen
from unlabel.methods.parts.heads import mlp
from unlabel.methods.parts.momentum import SHORT_CONTRASTIVE_RUN
from unlabel.methods.parts.multicrop import Colours, ViewOptions, large_crops, view_spec
from unlabel.methods.parts.regression import distances
from unlabel.methods.registry import get_method

BASE = "base"
"""The folder of the base among the stages."""
GROUPS = "groups.npy"
"""Among the stages: int64, the group of each row of the store; -1 for one that is in none."""

Share = Annotated[float, Field(gt=0)]


class DnCOptions(ViewOptions):
    """Options of DnC. The views are those of all three stages."""

    colours: Colours = "simclr"
    base_method: str = "moclr"
    """How the base and the experts learn, by name (the paper's)."""
    base_options: dict[str, Any] = Field(default_factory=dict)
    """Options of that method."""
    groups: int = Field(5, ge=2)
    """Groups of images, an expert each; fewer where images are few (the paper has 5 to 10 and
    more)."""
    shares: tuple[Share, Share, Share] = (1, 1, 1)
    """How the run's steps are shared among the base, all experts together, and the distillation
    (the paper's: evenly)."""
    experts_from: Literal["base", "random"] = "base"
    """Where experts start (not known of the paper)."""
    stages: Annotated[Path, AfterValidator(Path.absolute)] | None = None
    """The folder of a base and experts that are there already: ``stages`` in the folder of another
    DnC run. All steps are then the distillation's. They are trained first when not given."""
    hidden: int | None = Field(None, ge=1)
    """Width of each regressor's hidden layer (not known of the paper); as wide as the student's
    vector when not given, as in SimCLR's projector."""

    @model_validator(mode="after")
    def _base_can_be(self) -> DnCOptions:
        if self.base_method == "dnc":
            raise ValueError("base_method: dnc cannot be the base of itself")
        options = get_method(self.base_method).Options
        validated(options, self.base_options, f"base_options (of {self.base_method})")
        return self


class DnC(Method):
    """Regression of frozen networks' features: the base's, and those of the image's own expert.

    Student, base and expert see the same crops. Each frozen network has a regressor of its own on
    the student's features. The recipe is SimCLR's for 4,096 images, for all three stages.
    """

    name: ClassVar[str] = "dnc"
    recipe: ClassVar[OptimConfig] = OptimConfig(
        optimizer="lars", lr=0.3, betas=(0.9, 0.999), weight_decay=1e-6, warmup=0.01
    )
    short_run: ClassVar[Mapping[str, Any]] = SHORT_CONTRASTIVE_RUN
    Options: ClassVar[type[Settings]] = DnCOptions

    def __init__(self, backbone: Backbone, options: DnCOptions, data: DataInfo) -> None:
        super().__init__(backbone, options, data)
        self.spec = view_spec(options, backbone, data)
        stages = _named(options.stages)
        self.groups = torch.from_numpy(read_groups(stages))
        folders = [BASE, *(expert(k) for k in range(int(self.groups.max()) + 1))]
        networks = [_network(stages / folder, backbone) for folder in folders]
        self.frozen = Frozen(networks)
        hidden = options.hidden or backbone.dim
        regressors = [mlp([backbone.dim, hidden, network.dim]) for network in networks]
        self.base_regressor = regressors[0]
        self.expert_regressors = nn.ModuleList(regressors[1:])

    def forward(self, batch: Batch, progress: Progress) -> Losses:
        """The distance to the base and that to the own expert, averaged over crops and added."""
        crops = large_crops(batch)
        groups = self.groups[batch.ids].repeat(len(crops))
        images = torch.cat(crops)
        features = self.backbone.embed(images)
        base, *experts = self.frozen.networks
        with torch.no_grad():
            known, special = base.embed(images), _each_by_its_own(experts, images, groups)
        to_base = distances(self.base_regressor(features), known).mean()
        found = [distances(regress(features), special) for regress in self.expert_regressors]
        # All regressors predict, so that each has a gradient, of zeros for other groups' images.
        own = one_hot(groups, len(experts)).to(images.device, non_blocking=True)
        to_expert = (torch.stack(found, 1) * own).sum(1).mean()
        parts = {"to_base": to_base.detach(), "to_expert": to_expert.detach()}
        return Losses(to_base + to_expert, parts)


def expert(group: int) -> str:
    """The folder of a group's expert among the stages."""
    return f"expert-{group}"


def read_groups(stages: Path) -> np.ndarray:
    """The group of each row of the store, int64.

    Raises:
        InputMissing: the folder has none.
    """
    try:
        return np.load(stages / GROUPS, allow_pickle=False)
    except OSError:
        raise InputMissing(
            f"options.stages: there are no trained stages in {stages}: {GROUPS} is missing. Finish "
            "their run, name another's, or leave the option out to have them trained."
        ) from None


def _named(stages: Path | None) -> Path:
    """The folder of the stages; refuses that there is none with a ConfigError."""
    if stages is None:
        raise ConfigError(
            "dnc learns from a base and experts, which `unlabel pretrain --method dnc` trains "
            "first. To learn from those of another DnC run, name them: options.stages=RUN/stages."
        )
    return stages


def _network(stage: Path, student: Backbone) -> Backbone:
    """The network that a stage exported.

    Raises:
        DataError: it cannot see the student's images.
    """
    network = build_backbone(ModelConfig(name=f"{LOCAL}{stage / 'export'}"))
    sizes = network.image_size, student.image_size
    fits = sizes[0] == sizes[1] or (network.crop_unit and sizes[1] % network.crop_unit == 0)
    if network.in_chans != student.in_chans or not fits:
        raise DataError(
            f"options.stages: {stage} was trained on images of {sizes[0]} pixels and "
            f"{network.in_chans} channels; these have {sizes[1]} and {student.in_chans}."
        )
    return network


def _each_by_its_own(experts: list[Backbone], images: Tensor, groups: Tensor) -> Tensor:
    """What the expert of each image's group makes of it, (B, D)."""
    order = groups.argsort(stable=True)
    counts = groups.bincount(minlength=len(experts)).tolist()
    parts = images[order.to(images.device, non_blocking=True)].split(counts)
    found = [e.embed(part) for e, part in zip(experts, parts, strict=True) if len(part)]
    return torch.cat(found)[order.argsort().to(images.device, non_blocking=True)]

"""What every method is: views and masks that it wants, and losses that it makes of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from unlabel.backbones.base import Backbone
from unlabel.config import OptimConfig, Settings
from unlabel.data.spec import Batch, ViewSpec
from unlabel.methods.parts.teacher import Teacher


@dataclass(frozen=True)
class Progress:
    """Where in the run a step stands."""

    step: int
    steps: int

    @property
    def fraction(self) -> float:
        """Share of the run done, in [0, 1]."""
        return self.step / self.steps


@dataclass
class Losses:
    """The loss to descend and named scalars to log, all on the device and never waited for."""

    total: Tensor
    scalars: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class DataInfo:
    """What a method may know of the images before it sees one.

    ``classes`` is 0 without labels. ``mean`` and ``std`` have one value a channel and undo the
    normalisation: pixel in [0, 1] = normalised * std + mean. ``floats`` says that pixels have no
    known range, ``foreground`` and ``segments`` that the store has such a layer of masks.
    """

    images: int
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    floats: bool = False
    foreground: bool = False
    segments: bool = False


class Method(nn.Module, ABC):
    """One pre-training method, in one file. It never touches files, devices, optimisers or logs.

    A subclass is found by its ``name``; its parameters, buffers and teachers are saved and
    restored by its ``state_dict``. Whatever must be random in ``forward`` uses torch's default
    generator, which the loop seeds by (seed, step, rank).

    Attributes:
        name: what ``--method`` takes.
        needs: what ``Backbone.tokens`` must serve (``"visible"``, ``"mask"``).
        recipe: published optimiser settings, with their source in the method's docstring.
        drop_path: published stochastic depth of the backbone's last block.
        target_moves: whether the loss is measured against outputs that learn as well and have no
            scale of their own, so that a lower one does not mean a better network.
        horizon: whether its losses or targets follow from how long the run is to be, so that a
            shorter run does not begin as a longer one does.
        short_run: settings, by their dotted names, that the rules prefer for runs of minutes on
            small images; ours, not published.
        Options: the method's own settings, with defaults.
        spec: the views and masks wanted.
        backbone: the network being trained.
        average: the running average of the backbone's weights, where the run keeps one.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    recipe: ClassVar[OptimConfig]
    drop_path: ClassVar[float] = 0.0
    target_moves: ClassVar[bool] = False
    horizon: ClassVar[bool] = False
    short_run: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    Options: ClassVar[type[Settings]]

    spec: ViewSpec
    backbone: Backbone

    @abstractmethod
    def __init__(self, backbone: Backbone, options: Settings, data: DataInfo) -> None:
        """Build heads, teachers and tokenizers around ``backbone``."""
        super().__init__()
        self.backbone = backbone
        self.average: Teacher | None = None

    @property
    def exported(self) -> Backbone:
        """The network that is watched, evaluated and exported: the average where there is one."""
        return cast(Backbone, self.average.network) if self.average else self.backbone

    @abstractmethod
    def forward(self, batch: Batch, progress: Progress) -> Losses:
        """Losses of one batch whose views are normalised floats."""

    def prepare(self, pixels: Tensor) -> None:
        """Once before step 0: learn what needs a sample of pixels (a k-means tokenizer, say).

        ``pixels``: (n, C, H, W) normalised views of training images, the first group's crops.
        """

    def after_step(self, progress: Progress) -> None:
        """After the optimiser's step: teacher averages, centres, queues."""

    def no_weight_decay(self) -> set[str]:
        """Names of further parameters that weight decay must leave alone."""
        return set()

    @torch.no_grad()
    def validation_loss(self, batch: Batch, progress: Progress) -> Tensor:
        """The loss on held-out images, given fixed crops and masks."""
        return self(batch, progress).total

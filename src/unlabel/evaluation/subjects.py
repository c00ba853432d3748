"""What is measured: a pre-trained network, and the honest baselines that stand beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch

from unlabel.backbones.base import Backbone
from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig
from unlabel.errors import UsageError

FROZEN = frozenset({"knn", "linear", "linear-sgd"})
LARGEST_RAW = 64
"""Side in pixels to which raw pixels are reduced."""


@dataclass(frozen=True)
class Subject:
    """One column of the results table.

    Attributes:
        build: the network to measure, for a seed; ``None`` for raw pixels. Each call gives a new
            one, which fine-tuning may change.
        protocols: those that make sense for it.
        image_size: side in pixels of the images it sees.
        channels: of those images; ``None`` for any.
        scratch: whether its weights are random, so that fine-tuning is training from scratch.
        mean: of its training pixels, a value a channel; the training store's when ``None``.
        std: likewise.
    """

    build: Callable[[int], Backbone] | None
    protocols: frozenset[str]
    image_size: int
    channels: int | None = None
    scratch: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def pretrained(
    backbone: Backbone,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Subject:
    """A network as it is, by every protocol.

    Give the mean and standard deviation that it was trained with, where they are not those of the
    labelled images.
    """

    def build(seed: int) -> Backbone:
        return copy.deepcopy(backbone)

    return Subject(
        build,
        FROZEN | {"finetune"},
        backbone.image_size,
        backbone.in_chans,
        mean=mean,
        std=std,
    )


def untrained(model: ModelConfig, *, seed: int = 0) -> Subject:
    """The same network at random initialisation, frozen: what the architecture alone brings."""
    network = random_network(model, seed)
    return Subject(
        lambda _: copy.deepcopy(network),
        FROZEN,
        network.image_size,
        network.in_chans,
        scratch=True,
    )


def labels_only(model: ModelConfig) -> Subject:
    """The same network trained on the labels alone, from another random start with each seed."""
    network = random_network(model, 0)
    return Subject(
        lambda seed: random_network(model, seed),
        frozenset({"finetune"}),
        network.image_size,
        network.in_chans,
        scratch=True,
    )


def raw_pixels(image_size: int) -> Subject:
    """The pixels themselves, at most 64 a side: what no network at all brings."""
    return Subject(None, frozenset({"knn", "linear"}), min(image_size, LARGEST_RAW))


def random_network(model: ModelConfig, seed: int) -> Backbone:
    """The network of ``model`` with random weights that depend on ``seed`` alone.

    Raises:
        UsageError: ``model`` is a folder of weights, which has no random version.
    """
    if model.name.startswith("local-dir:"):
        raise UsageError(
            f"{model.name} brings its own weights; name its architecture for a random start."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_backbone(model.model_copy(update={"weights": None}))

"""What is measured: a pre-trained network, and the honest baselines that stand beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch

from unlabel.backbones.base import Backbone
from unlabel.backbones.build import describe_backbone, rebuild_backbone
from unlabel.data.store import Store

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
        learnt_from: the images that it was pre-trained on, where they are known.
    """

    build: Callable[[int], Backbone] | None
    protocols: frozenset[str]
    image_size: int
    channels: int | None = None
    scratch: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    learnt_from: Store | None = None


def pretrained(backbone: Backbone, learnt_from: Store | None = None) -> Subject:
    """A network as it is, by every protocol, with the mean and std that it knows.

    With ``learnt_from``, the images that it was pre-trained on, results count the test images that
    are among them.
    """

    def build(seed: int) -> Backbone:
        return copy.deepcopy(backbone)

    return Subject(
        build,
        FROZEN | {"finetune"},
        backbone.image_size,
        backbone.in_chans,
        mean=backbone.mean,
        std=backbone.std,
        learnt_from=learnt_from,
    )


def untrained(like: Backbone, *, seed: int = 0) -> Subject:
    """The network of ``like`` at random initialisation, frozen: what its architecture brings."""
    network = random_network(like, seed)
    return Subject(
        lambda _: copy.deepcopy(network),
        FROZEN,
        network.image_size,
        network.in_chans,
        scratch=True,
    )


def labels_only(like: Backbone) -> Subject:
    """The network of ``like`` trained on the labels alone, from a random start of each seed's."""
    return Subject(
        lambda seed: random_network(like, seed),
        frozenset({"finetune"}),
        like.image_size,
        like.in_chans,
        scratch=True,
    )


def raw_pixels(image_size: int) -> Subject:
    """The pixels themselves, at most 64 a side: what no network at all brings."""
    return Subject(None, frozenset({"knn", "linear"}), min(image_size, LARGEST_RAW))


def random_network(like: Backbone, seed: int) -> Backbone:
    """The network of ``like`` with random weights that depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return rebuild_backbone(describe_backbone(like))

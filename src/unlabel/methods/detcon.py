"""DetCon: match the parts of two views of an image, by segments found without learning.

Henaff et al., "Efficient Visual Pretraining with Contrastive Detection" (arXiv 2103.10957); this is
its variant with a target network, DetCon-B.

Shapes: B images of this process, G of all processes together, M sampled segments, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor

from unlabel.backbones.base import Backbone
from unlabel.config import OptimConfig, Settings
from unlabel.data.spec import Batch, ViewSpec
from unlabel.errors import ConfigError
from unlabel.methods.base import DataInfo, Losses, Method, Progress
from unlabel.methods.parts.gather import from_all, rank
from unlabel.methods.parts.heads import Encoder, mlp
from unlabel.methods.parts.invariance import unit
from unlabel.methods.parts.momentum import SHORT_RUN, target_decay
from unlabel.methods.parts.multicrop import ViewOptions, large_crops, view_spec
from unlabel.methods.parts.precision import full_precision
from unlabel.methods.parts.segments import pool, sample_ids
from unlabel.methods.parts.teacher import Teacher


class DetConOptions(ViewOptions):
    """Options of DetCon-B; the defaults are those of its released code."""

    segments: int = Field(16, ge=1)
    """Segments sampled in each view of an image, with replacement."""
    hidden: int = Field(4096, ge=1)
    """Width of the hidden layers of projector and predictor."""
    out: int = Field(256, ge=2)
    """Features that are compared."""
    temperature: float = Field(0.1, gt=0)
    """What cosines are divided by."""
    decay: float = Field(0.996, gt=0, lt=1)
    """Of the target's weights at the start, rising to 1 along a cosine. Shorter runs begin lower;
    see ``momentum.start_decay``."""


class DetCon(Method):
    """Features averaged over a segment find the same segment in the other view, among all others.

    The recipe is the released one: LARS with learning rate 0.2 at 256 images, weight decay 1.5e-6,
    warm-up and cosine, 4,096 images a step. Warm-up is over 1 % of the run.
    """

    name: ClassVar[str] = "detcon"
    recipe: ClassVar[OptimConfig] = OptimConfig(
        optimizer="lars", lr=0.2, betas=(0.9, 0.999), weight_decay=1.5e-6, warmup=0.01
    )
    horizon: ClassVar[bool] = True
    short_run: ClassVar[Mapping[str, Any]] = SHORT_RUN
    Options: ClassVar[type[Settings]] = DetConOptions

    def __init__(self, backbone: Backbone, options: DetConOptions, data: DataInfo) -> None:
        super().__init__(backbone, options, data)
        self.options = options
        self.spec = _spec(options, backbone, data)
        self.projector = mlp([backbone.dim, options.hidden, options.out], last_bias=False)
        self.predictor = mlp([options.out, options.hidden, options.out], last_bias=False)
        self.target = Teacher(Encoder(backbone, self.projector))

    def forward(self, batch: Batch, progress: Progress) -> Losses:
        """Both directions, added."""
        crops = torch.cat(large_crops(batch))
        grids = torch.cat([g for name in batch.views for g in batch.segments[name].unbind(1)])
        # The held-out loss is always of the same segments.
        step = progress.step if self.training else 0
        draws = [
            sample_ids(grid, self.options.segments, seed=2 * step + view)
            for view, grid in enumerate(grids.chunk(2))
        ]
        ids = torch.cat(draws)
        online, target = Encoder(self.backbone, self.projector), self.target.network
        predicted = self.predictor(_project(online, crops, grids, ids))
        with torch.no_grad():
            expected = _project(cast(Encoder, target), crops, grids, ids)
        p = unit(predicted).unflatten(0, ids.shape).chunk(2)
        t = unit(expected).unflatten(0, ids.shape).chunk(2)
        tau = self.options.temperature
        loss = contrast_segments(p[0], t[1], t[0], draws[0], draws[1], tau) + contrast_segments(
            p[1], t[0], t[1], draws[1], draws[0], tau
        )
        found = (draws[0][:, :, None] == draws[1][:, None]).any(2).float().mean()
        return Losses(loss, {"segments_matched": found})

    def after_step(self, progress: Progress) -> None:
        """Move the target towards the online network."""
        decay = target_decay(self.options.decay, progress)
        online = Encoder(self.backbone, self.projector)
        self.target.update(online, decay, copy_buffers=False)


def _project(network: Encoder, crops: Tensor, grids: Tensor, ids: Tensor) -> Tensor:
    """Projections (B M, D) of the sampled segments of each crop."""
    return network.projector(pool(network.backbone.feature_map(crops), grids, ids).flatten(0, 1))


def contrast_segments(
    predicted: Tensor, other: Tensor, same: Tensor, ids: Tensor, other_ids: Tensor, tau: float
) -> Tensor:
    """Cross-entropy of finding one's segment in the other view, averaged over rows.

    Candidates are the sampled segments of both views of all images. The same segment of the other
    view is the answer, shared evenly where it was sampled several times; the same segment of one's
    own view is left out. A row weighs one over how often its segment was sampled in its view, and
    nothing where the other view did not sample it.

    Args:
        predicted: (B, M, D), of unit length, of this view.
        other: (B, M, D), of unit length, the target's of the other view, without gradient.
        same: likewise of this view.
        ids: int64 (B, M), the segments sampled in this view.
        other_ids: likewise in the other.
        tau: what cosines are divided by.
    """
    images, segments = ids.shape
    itself = ids[:, :, None] == ids[:, None]
    answers = ids[:, :, None] == other_ids[:, None]
    with full_precision(predicted):
        candidates = torch.cat([from_all(other), from_all(same)])
        image = torch.arange(images, device=ids.device)
        there = image + rank() * images
        here = there + len(candidates) // 2
        # Added to the scores: minus infinity leaves a candidate out.
        left_out = predicted.new_zeros(images, segments, len(candidates), segments)
        left_out[image, :, here] = (~itself).to(predicted.dtype).log()
        rows, columns = (predicted / tau).flatten(0, 1), candidates.flatten(0, 1)
        scores = torch.addmm(left_out.flatten(0, 1).flatten(1), rows, columns.T)
        likelihoods = scores.log_softmax(1).view_as(left_out)[image, :, there]
        loss = -(likelihoods * answers).sum(2) / answers.sum(2).clamp(min=1)
        return (loss / itself.sum(2)).mean()


def _spec(options: DetConOptions, backbone: Backbone, data: DataInfo) -> ViewSpec:
    """The two crops, with the segments of each cell of their feature maps.

    Raises:
        ConfigError: the store has no segments.
    """
    if not data.segments:
        raise ConfigError(
            "method 'detcon' matches segments, which this store does not have. Make them with: "
            "unlabel saliency STORE --segments felzenszwalb"
        )
    spec = view_spec(options, backbone, data)
    side = backbone.grid[0]
    return replace(
        spec, crops={name: replace(crops, segments=side) for name, crops in spec.crops.items()}
    )

"""RELICv2: RELIC with many crops, few negatives, and views without their background.

Tomasev et al., "Pushing the limits of self-supervised ResNets: Can we outperform supervised
learning without labels on ImageNet?" (arXiv 2201.05119).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabel.backbones.base import Backbone
from unlabel.config import OptimConfig, Scale, Settings
from unlabel.data.spec import BackgroundRemoval, Batch, ViewSpec
from unlabel.errors import ConfigError
from unlabel.methods.base import DataInfo, Losses, Method, Progress
from unlabel.methods.parts.gather import from_all
from unlabel.methods.parts.heads import Encoder, mlp
from unlabel.methods.parts.invariance import (
    contrast_and_invariance,
    draw_candidates,
    log_likelihoods,
    unit,
)
from unlabel.methods.parts.momentum import SHORT_CONTRASTIVE_RUN, target_decay
from unlabel.methods.parts.multicrop import (
    LARGE,
    MultiCropOptions,
    encode,
    large_crops,
    small_crops,
    view_spec,
)
from unlabel.methods.parts.teacher import Teacher

PUBLISHED_BACKGROUND = 0.1
"""Probability that a large crop loses its background (from memory)."""


class RELICv2Options(MultiCropOptions):
    """Options of RELICv2. What the paper's public part leaves out is marked; see the card."""

    large: int = Field(4, ge=2)
    small: int = Field(2, ge=0)
    scale: Scale = (0.14, 1.0)
    """Share of the image's area that a large crop covers (SwAV's; RELICv2's is not given)."""
    hidden: int = Field(4096, ge=1)
    """Width of the hidden layer of the comparison net (and of the predictor)."""
    out: int = Field(256, ge=2)
    """Features that are compared."""
    predictor: bool = False
    """A further such net on the online side only; whether the paper has one is not given."""
    negatives: int = Field(10, ge=1)
    """Other images that each image is compared with, drawn anew for each pair of views."""
    temperature: float = Field(0.2, gt=0)
    """What cosines are divided by (from memory; not checked against the paper)."""
    contrast: float = Field(1.0, ge=0)
    """Weight of the contrastive term (alpha; not given)."""
    invariance: float = Field(1.0, ge=0)
    """Weight of the KL term (beta; not given)."""
    swap: Literal["anchor", "views"] = "anchor"
    """What the second factor of the KL is: the likelihood with the target's embedding as the anchor
    and the online ones as candidates; or, between large crops, that of the same two crops with
    online and target exchanged (RELIC's form). Small crops, which have no target, and a large crop
    with its own target, of which the second makes the same likelihood twice, use the first."""
    same_view: bool = True
    """Whether a large crop is also compared with its own target, as the published loop does."""
    decay: float = Field(0.996, gt=0, lt=1)
    """Of the target's weights at the start, rising to 1 along a cosine (from memory). Shorter runs
    begin lower; see ``momentum.start_decay``."""
    background: float | None = Field(None, ge=0, le=1)
    """Probability that a large crop loses its background, which needs foreground masks (unlabel
    saliency). When not given: 0.1 (from memory) where the store has them as the run begins, else
    0."""
    fill: Literal["zero", "mean", "grey", "blur"] = "zero"
    """What stands in its place; not given in the paper."""


class RELICv2(Method):
    """Every crop online against every large crop's target: contrast and invariance.

    The recipe is BYOL's for 1,000 epochs with a learning rate of 0.3 (from memory): LARS, weight
    decay 1.5e-6, 10 warm-up epochs, cosine, 4,096 images a step.
    """

    name: ClassVar[str] = "relicv2"
    recipe: ClassVar[OptimConfig] = OptimConfig(
        optimizer="lars", lr=0.3, betas=(0.9, 0.999), weight_decay=1.5e-6, warmup=0.01
    )
    horizon: ClassVar[bool] = True
    short_run: ClassVar[Mapping[str, Any]] = SHORT_CONTRASTIVE_RUN
    Options: ClassVar[type[Settings]] = RELICv2Options

    def __init__(self, backbone: Backbone, options: RELICv2Options, data: DataInfo) -> None:
        super().__init__(backbone, options, data)
        self.options = options
        self.spec = _spec(options, backbone, data)
        widths = [options.hidden, options.out]
        self.projector = mlp([backbone.dim, *widths], last_bias=False)
        self.predictor = (
            mlp([options.out, *widths], last_bias=False) if options.predictor else nn.Identity()
        )
        self.target = Teacher(Encoder(backbone, self.projector))

    def forward(self, batch: Batch, progress: Progress) -> Losses:
        """The mean over pairs of crops of alpha * contrast + beta * invariance."""
        large = large_crops(batch)
        online = [*self._online(large), *self._online(small_crops(batch))]
        with torch.no_grad():
            target = [unit(z) for z in encode(self.target.network, large)]
        # The held-out loss is always of the same negatives.
        step = progress.step if self.training else 0
        terms = [contrast_and_invariance(*pair) for pair in self._pairs(online, target, step)]
        contrast = torch.stack([c for c, _ in terms]).mean()
        invariance = torch.stack([i for _, i in terms]).mean()
        total = self.options.contrast * contrast + self.options.invariance * invariance
        return Losses(total, {"contrast": contrast.detach(), "invariance": invariance.detach()})

    def _online(self, crops: list[Tensor]) -> list[Tensor]:
        projected = encode(Encoder(self.backbone, self.projector), crops)
        return [unit(z) for z in encode(self.predictor, projected)]

    def _pairs(
        self, online: list[Tensor], target: list[Tensor], step: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each pair of an online crop and a target: both log-likelihoods (B, K)."""
        options, tau = self.options, self.options.temperature
        all_online, all_target = [from_all(z) for z in online], [from_all(z) for z in target]
        images, total = len(online[0]), len(all_online[0])
        for i, crop in enumerate(online):
            for j, partner in enumerate(target):
                if i == j and not options.same_view:
                    continue
                seed = (step * len(online) + i) * len(target) + j
                candidates = draw_candidates(images, total, options.negatives, seed)
                candidates = candidates.to(crop.device, non_blocking=True)
                there = log_likelihoods(crop, all_target[j], candidates, tau)
                if options.swap == "views" and i < len(target) and i != j:
                    back = log_likelihoods(online[j], all_target[i], candidates, tau)
                else:
                    back = log_likelihoods(partner, all_online[i], candidates, tau)
                yield there, back

    def after_step(self, progress: Progress) -> None:
        """Move the target towards the online network."""
        decay = target_decay(self.options.decay, progress)
        online = Encoder(self.backbone, self.projector)
        self.target.update(online, decay, copy_buffers=False)


def _spec(options: RELICv2Options, backbone: Backbone, data: DataInfo) -> ViewSpec:
    """The crops, with a coin for each large one that takes its background away.

    Raises:
        ConfigError: backgrounds are to be removed and the store has no foreground masks.
    """
    spec = view_spec(options, backbone, data)
    share = options.background
    if share is None:
        share = PUBLISHED_BACKGROUND if data.foreground else 0.0
    if not share:
        return spec
    if not data.foreground:
        raise ConfigError(
            f"options.background {share} needs foreground masks, which this store does not have. "
            "Make them with: unlabel saliency STORE --kind background"
        )
    removal = BackgroundRemoval(share, options.fill)
    return replace(
        spec,
        crops={
            name: replace(crops, background=removal) if name.startswith(LARGE) else crops
            for name, crops in spec.crops.items()
        },
    )

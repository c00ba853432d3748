"""SimCLR: two views of an image find each other among all other views of the batch.

Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations"
(arXiv 2002.05709).
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from unlabel.backbones.base import Backbone
from unlabel.config import OptimConfig, Settings
from unlabel.data.spec import Batch
from unlabel.methods.base import DataInfo, Losses, Method, Progress
from unlabel.methods.parts.contrast import info_nce
from unlabel.methods.parts.heads import Encoder, mlp
from unlabel.methods.parts.multicrop import (
    Colours,
    ViewOptions,
    encode,
    large_crops,
    view_spec,
)


class SimCLROptions(ViewOptions):
    """Options of SimCLR."""

    colours: Colours = "simclr"
    hidden: int = Field(2048, ge=1)
    """Width of the projector's hidden layer."""
    out: int = Field(128, ge=2)
    """Features that are compared."""
    temperature: float = Field(0.1, gt=0)
    """What cosines are divided by; the paper has 0.5 for CIFAR-10."""


class SimCLR(Method):
    """NT-Xent over both views of every image: the softmax of each runs over the 2B - 1 others.

    The recipe is the paper's for 4,096 images: LARS with learning rate 0.3 at 256 images, weight
    decay 1e-6, 10 warm-up epochs of 1,000, cosine.
    """

    name: ClassVar[str] = "simclr"
    recipe: ClassVar[OptimConfig] = OptimConfig(
        optimizer="lars", lr=0.3, betas=(0.9, 0.999), weight_decay=1e-6, warmup=0.01
    )
    Options: ClassVar[type[Settings]] = SimCLROptions

    def __init__(self, backbone: Backbone, options: SimCLROptions, data: DataInfo) -> None:
        super().__init__(backbone, options, data)
        self.options = options
        self.spec = view_spec(options, backbone, data)
        self.projector = mlp([backbone.dim, options.hidden, options.out])

    def forward(self, batch: Batch, progress: Progress) -> Losses:
        """NT-Xent of the two large crops."""
        first, second = encode(Encoder(self.backbone, self.projector), large_crops(batch))
        loss, accuracy = info_nce(first, second, self.options.temperature, negatives="both")
        return Losses(loss, {"match_accuracy": accuracy})

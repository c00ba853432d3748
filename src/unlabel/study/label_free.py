"""What features tell without labels: LiDAR and alpha-ReQ of the held-out images."""

from __future__ import annotations

from math import isnan

import torch
from torch import Tensor

from unlabel.analysis.alpha_req import alpha_req
from unlabel.analysis.features import bf16, embed_all
from unlabel.analysis.lidar import lidar
from unlabel.backbones.base import Backbone
from unlabel.data.images import Images, normalise
from unlabel.data.loader import stream
from unlabel.data.spec import Crops, ViewSpec
from unlabel.data.store import Store
from unlabel.data.views import Batches

IMAGES, VIEWS = 256, 10
"""Held-out images that LiDAR looks at, at most, and crops of each: fewer than the paper's 1,000 by
50, for the time that they take."""
AT_ONCE = 16
"""Images whose crops are in memory together."""
GROUP = "views"


def label_free(
    backbone: Backbone, held_out: Store, seed: int, device: torch.device
) -> dict[str, float | None]:
    """The figures by name; alpha-ReQ is ``None`` where features have too few directions.

    LiDAR's views are crops of 20 % of the image and more, and flips, for every method alike.
    """
    info = held_out.info
    plain = embed_all(
        lambda images: backbone.embed(normalise(images, info.mean, info.std)),
        Images(held_out, backbone.image_size),
        device,
    )
    slope = alpha_req(plain)
    views = _views(backbone, held_out, seed, device)
    return {"lidar": lidar(views), "alpha_req": None if isnan(slope) else slope}


@torch.inference_mode()
def _views(backbone: Backbone, held_out: Store, seed: int, device: torch.device) -> Tensor:
    """Features of the same random crops whenever asked: (n, VIEWS, D)."""
    _, some = held_out.holdout(1.0, IMAGES, seed)
    spec = ViewSpec({GROUP: Crops(backbone.image_size, count=VIEWS)})
    batches = Batches(some, spec, seed=seed, batch_size=AT_ONCE, fixed=True)
    with bf16(device):
        found = [
            backbone.embed(batch.views[GROUP].flatten(0, 1)).float()
            for batch in stream(batches, 0, len(batches), workers=0, device=device)
        ]
    return torch.cat(found).unflatten(0, (-1, VIEWS))

"""Frozen features of a subject, computed once and shared by the protocols that need them."""

from __future__ import annotations

import torch
from torch import Tensor

from unlabel.analysis.features import embed_all
from unlabel.data.images import Images, normalise, unit
from unlabel.evaluation.subjects import Subject


def extract(
    subject: Subject,
    images: Images,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Features of ``images`` by the frozen network of ``subject``, or the pixels themselves.

    Args:
        subject: its own mean and standard deviation, if it has them, go before these.
        images: of the subject's size.
        mean: of pixels in [0, 1], a value a channel.
        std: likewise.
        device: where to compute.

    Returns:
        float32 (n, D) on ``device``; D is C * H * W for raw pixels.
    """
    if subject.build is None:
        return embed_all(lambda batch: unit(batch).flatten(1), images, device)
    backbone = subject.build(0).to(device).eval()
    mean, std = subject.mean or mean, subject.std or std
    return embed_all(lambda b: backbone.embed(normalise(b, mean, std)), images, device)

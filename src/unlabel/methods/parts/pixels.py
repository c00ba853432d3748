"""Pixels as the target: patches, images, and the two ways of taking local contrast out.

Shapes: B images, C channels, N patches (row-major), p the side of a patch in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

EPS = 1e-6


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut (B, C, H, W) into (B, N, p * p * C); a patch's values run by row, column, channel."""
    b, c, h, w = images.shape
    cells = images.reshape(b, c, h // patch, patch, w // patch, patch)
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, patch * patch * c)


def unpatchify(patches: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """Undo ``patchify``: (B, N, p * p * C) to (B, C, H, W), N the product of ``grid``."""
    rows, columns = grid
    cells = patches.reshape(patches.shape[0], rows, columns, patch, patch, -1)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(
        patches.shape[0], -1, rows * patch, columns * patch
    )


def standardise(patches: Tensor) -> Tensor:
    """Each patch minus its mean, over the root of its unbiased variance plus 1e-6 (MAE)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) * (variance + EPS).rsqrt()


def local_standardise(images: Tensor, window: int) -> Tensor:
    """Each pixel and channel minus the mean of the window around it, over its deviation.

    The window (odd, centred) is cut off at the border, and the counts are those of what is left.
    The variance is unbiased, at least 0, and has 1e-6 added inside the root (SimMIM's released
    code, ``NORM_TARGET``).

    Args:
        images: (B, C, H, W).
        window: side of the window in pixels, odd and at least 3.
    """
    mean = _box_mean(images, window)
    count = _box_count(images, window)
    variance = (_box_mean(images.square(), window) - mean.square()) * (count / (count - 1))
    return (images - mean) * (variance.clamp(min=0) + EPS).rsqrt()


def _box_mean(images: Tensor, window: int) -> Tensor:
    """Mean over the part of the window inside the image: along rows, then along columns."""
    half = window // 2
    rows = avg_pool2d(images, (window, 1), 1, (half, 0), count_include_pad=False)
    return avg_pool2d(rows, (1, window), 1, (0, half), count_include_pad=False)


def _box_count(images: Tensor, window: int) -> Tensor:
    """Pixels of the window that lie inside the image, (H, W)."""

    def along(side: int) -> Tensor:
        at = torch.arange(side, device=images.device)
        last = (at + window // 2).clamp(max=side - 1)
        return last - (at - window // 2).clamp(min=0) + 1

    height, width = images.shape[-2:]
    return (along(height)[:, None] * along(width)).to(images.dtype)

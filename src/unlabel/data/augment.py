"""Colour recipes: parameters drawn an image, operators applied to a batch on the device.

The operators are torchvision's (``ColorJitter``, ``rgb_to_grayscale``, ``GaussianBlur`` and
``solarize`` on floats), image by image.

Shapes: B images, V views, N = B * V, K parameters.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unlabel.data.random import uniform
from unlabel.data.spec import Photometric
from unlabel.errors import ConfigError

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
JITTER, ORDER, GREY, SIGMA, SOLARIZE, COUNT = 0, 4, 8, 9, 10, 11
"""Places of the parameters: four amounts, the order of their operators, and the other three."""
LUMA = (0.2989, 0.587, 0.114)
"""Weights of grey (ITU-R BT.601)."""
REFERENCE = 224
"""Crop size in pixels that blur's sigma is given for."""


def draw_colours(recipe: Photometric, key: np.ndarray) -> np.ndarray:
    """Parameters of one view of each image: float32 (B, K).

    The order is -1 where the jitter's coin said no; sigma and the others are 0.
    """
    u = uniform(key, 13)
    amounts = np.stack(
        [
            1 + (2 * u[:, 0] - 1) * recipe.brightness,
            1 + (2 * u[:, 1] - 1) * recipe.contrast,
            1 + (2 * u[:, 2] - 1) * recipe.saturation,
            (2 * u[:, 3] - 1) * recipe.hue,
        ],
        axis=1,
    )
    order = np.argsort(u[:, 4:8], axis=1)
    order[u[:, 8] >= recipe.jitter_p] = -1
    low, high = recipe.blur_sigma
    sigma = np.where(u[:, 10] < recipe.blur_p, low + u[:, 11] * (high - low), 0)
    coins = (u[:, 9] < recipe.grey_p, sigma, u[:, 12] < recipe.solarize_p)
    return np.concatenate([amounts, order, np.stack(coins, axis=1)], axis=1).astype(np.float32)


def apply_colours(images: Tensor, colours: Tensor, recipe: Photometric) -> Tensor:
    """Apply each image's own parameters.

    Args:
        images: (B, V, C, H, W), floats in [0, 1]; may be changed in place.
        colours: (B, V, K), from ``draw_colours``, on the processor.
        recipe: the one they were drawn by.

    Returns:
        (B, V, C, H, W), in [0, 1].

    Raises:
        ConfigError: the recipe needs colours and the images do not have three channels.
    """
    if images.shape[2] != 3 and (recipe.jitter_p or recipe.grey_p):
        raise ConfigError(
            f"Colour jitter and grey need images of 3 channels; these have {images.shape[2]}. "
            "Turn the method's colour options off."
        )
    x = images.flatten(0, 1)
    parameters = colours.flatten(0, 1)
    for place in range(ORDER, GREY):
        for kind, operator in enumerate((_brightness, _contrast, _saturation, _hue)):
            rows = parameters[:, place] == kind
            _on_some(x, rows, lambda part, amount, f=operator: f(part, amount), parameters[:, kind])
    _on_some(x, parameters[:, GREY] > 0, lambda part, _: _grey(part).expand_as(part))
    scale = images.shape[-1] / REFERENCE
    size = _kernel_size(recipe, images.shape[-1])
    _on_some(
        x,
        parameters[:, SIGMA] > 0,
        lambda part, sigma: _blur(part, sigma * scale, size),
        parameters[:, SIGMA],
    )
    threshold = recipe.solarize_threshold
    _on_some(
        x,
        parameters[:, SOLARIZE] > 0,
        lambda part, _: torch.where(part >= threshold, 1 - part, part),
    )
    return x.view(images.shape)


def _on_some(x: Tensor, rows: Tensor, operator, amounts: Tensor | None = None) -> None:
    """Replace the images where ``rows`` is true; the rows are known before the device is asked."""
    index = rows.nonzero().squeeze(1)
    if not len(index):
        return
    amount = None
    if amounts is not None:
        amount = amounts[index].view(-1, 1, 1, 1).to(x.device, non_blocking=True)
    if len(index) == len(x):
        x.copy_(operator(x, amount))
        return
    index = index.to(x.device, non_blocking=True)
    x.index_copy_(0, index, operator(x.index_select(0, index), amount))


def _grey(x: Tensor) -> Tensor:
    red, green, blue = LUMA
    return red * x[:, 0:1] + green * x[:, 1:2] + blue * x[:, 2:3]


def _brightness(x: Tensor, amount: Tensor) -> Tensor:
    return (x * amount).clamp_(0, 1)


def _contrast(x: Tensor, amount: Tensor) -> Tensor:
    mean = _grey(x).mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(mean, x, amount).clamp_(0, 1)


def _saturation(x: Tensor, amount: Tensor) -> Tensor:
    return torch.lerp(_grey(x).expand_as(x), x, amount.expand_as(x)).clamp_(0, 1)


def _hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue: each channel is value - chroma * clamp(min(k, 4 - k), 0, 1) of its k."""
    red, green, blue = x.unbind(1)
    value, least = x.amax(1), x.amin(1)
    chroma = value - least
    safe = torch.where(chroma == 0, 1, chroma)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sector = sector + 6 * turn[:, 0]
    channels = []
    for offset in (5, 3, 1):
        k = (sector + offset) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1))
    return torch.stack(channels, 1)


def _kernel_size(recipe: Photometric, size: int) -> int:
    """Odd side of a kernel that reaches three sigma, at most the tenth of the crop or so."""
    reach = math.ceil(3 * recipe.blur_sigma[1] * size / REFERENCE)
    return 2 * max(1, reach) + 1


def _blur(x: Tensor, sigma: Tensor, size: int) -> Tensor:
    """Gaussian blur with a sigma an image, one axis after the other, mirrored at the border."""
    n, channels, height, width = x.shape
    half = min(size // 2, height - 1, width - 1)
    at = torch.arange(-half, half + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (at / sigma.view(-1, 1).clamp(min=1e-3)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    padded = F.pad(x, (half, half, half, half), mode="reflect")
    planes = padded.reshape(1, n * channels, height + 2 * half, width + 2 * half)
    planes = F.conv2d(planes, kernel[:, None, None, :], groups=n * channels)
    planes = F.conv2d(planes, kernel[:, None, :, None], groups=n * channels)
    return planes.view(n, channels, height, width)

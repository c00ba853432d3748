"""Colour recipes: parameters drawn an image, operators applied to a whole batch on its device.

The operators are torchvision's (``ColorJitter``, ``rgb_to_grayscale``, ``GaussianBlur`` and
``solarize`` on floats), image by image; an additive brightness is tensorflow's. On a processor
``augment_cpu`` does the same faster.

Shapes: B images, V views, N of them together, C channels, K parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unlabel.data.random import uniform
from unlabel.data.spec import Photometric
from unlabel.errors import ConfigError

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ORDER, GREY, SIGMA, SOLARIZE = 4, 8, 9, 10
"""Places of the parameters: four amounts, the order of their operators, and the other three."""
LUMA = (0.2989, 0.587, 0.114)
"""Weights of grey (ITU-R BT.601)."""
REFERENCE = 224
"""Crop size in pixels that blur's sigma is given for."""


def check_recipe(group: str, recipe: Photometric, channels: int, dtype: str) -> None:
    """Refuse a recipe that makes no sense of these images.

    Raises:
        ConfigError: colour operators on images that are not RGB, or operators that need pixels
            between 0 and 1 on floats, whose range nobody knows.
    """
    colour = recipe.jitter_p and (recipe.saturation or recipe.hue)
    if channels != 3 and (colour or recipe.grey_p):
        raise ConfigError(
            f"The colour recipe of the views {group!r} changes saturation, hue or grey, which "
            f"needs RGB; these images have {channels} channels. Turn these options off: "
            "brightness, contrast, blur and solarising work on any channels."
        )
    if np.dtype(dtype).kind == "f" and (recipe.jitter_p or recipe.solarize_p):
        raise ConfigError(
            f"The colour recipe of the views {group!r} jitters or solarises, which needs pixels "
            f"of a known range; these are {dtype}. Turn these options off (blur works), or store "
            "the images as 8 or 16 bits."
        )


def draw_colours(recipe: Photometric, key: np.ndarray) -> np.ndarray:
    """Parameters of one view of each image: float32 (N, K).

    The order names the operators by their numbers, -1 for one that is left out; sigma, in pixels of
    a 224-pixel crop, and the others are 0 where their coin said no.
    """
    u = uniform(key, 13)
    widths = (recipe.brightness, recipe.contrast, recipe.saturation)
    amounts = [
        max(0, 1 - width) + u[:, kind] * (1 + width - max(0, 1 - width))
        for kind, width in enumerate(widths)
    ]
    if recipe.additive_brightness:
        amounts[BRIGHTNESS] = (2 * u[:, BRIGHTNESS] - 1) * recipe.brightness
    amounts.append((2 * u[:, HUE] - 1) * recipe.hue)
    order = np.argsort(u[:, 4:8], axis=1)
    used = np.array([width > 0 for width in (*widths, recipe.hue)])
    order[~used[order] | (u[:, 8:9] >= recipe.jitter_p)] = -1
    low, high = recipe.blur_sigma
    sigma = np.where(u[:, 10] < recipe.blur_p, low + u[:, 11] * (high - low), 0)
    coins = (u[:, 9] < recipe.grey_p, sigma, u[:, 12] < recipe.solarize_p)
    return np.stack([*amounts, *order.T, *coins], axis=1).astype(np.float32)


def blur_reach(recipe: Photometric, size: int) -> int:
    """Pixels that a kernel reaches to each side: three times the largest sigma, inside the crop."""
    reach = math.ceil(3 * recipe.blur_sigma[1] * size / REFERENCE)
    return min(max(1, reach), size - 1)


def apply_colours(images: Tensor, colours: Tensor, recipe: Photometric) -> Tensor:
    """Apply each image's own parameters.

    Args:
        images: (B, V, C, H, W), floats in [0, 1]; changed in place.
        colours: (B, V, K), from ``draw_colours``, on the processor.
        recipe: the one they were drawn by.

    Returns:
        ``images``, in [0, 1].
    """
    x = images.flatten(0, 1)
    drawn = colours.flatten(0, 1)
    brightness = _offset if recipe.additive_brightness else _brightness
    for place in range(ORDER, GREY):
        for kind, operator in enumerate((brightness, _contrast, _saturation, _hue)):
            _on_some(x, drawn[:, place] == kind, operator, drawn[:, kind])
    _on_some(x, drawn[:, GREY] > 0, lambda some, _: _grey(some).expand_as(some), drawn[:, GREY])
    reach = blur_reach(recipe, x.shape[-1])
    sigma = drawn[:, SIGMA] * (x.shape[-1] / REFERENCE)
    _on_some(x, sigma > 0, lambda some, sigma: _blur(some, sigma, reach), sigma)
    level = recipe.solarize_threshold
    _on_some(
        x,
        drawn[:, SOLARIZE] > 0,
        lambda some, _: torch.where(some >= level, 1 - some, some),
        drawn[:, SOLARIZE],
    )
    return images


def _on_some(
    x: Tensor, rows: Tensor, operator: Callable[[Tensor, Tensor], Tensor], amounts: Tensor
) -> None:
    """Replace the images where ``rows`` is true; the rows are known before the device is asked."""
    index = rows.nonzero().squeeze(1)
    if not len(index):
        return
    amount = _to(amounts[index].view(-1, 1, 1, 1), x.device)
    if len(index) == len(x):
        x.copy_(operator(x, amount))
        return
    index = _to(index, x.device)
    x.index_copy_(0, index, operator(x.index_select(0, index), amount))


def _to(values: Tensor, device: torch.device) -> Tensor:
    """``values`` on ``device``, through page-locked memory, for which the host need not wait."""
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def _grey(x: Tensor) -> Tensor:
    red, green, blue = LUMA
    return red * x[:, 0:1] + green * x[:, 1:2] + blue * x[:, 2:3]


def _brightness(x: Tensor, amount: Tensor) -> Tensor:
    return (x * amount).clamp_(0, 1)


def _offset(x: Tensor, amount: Tensor) -> Tensor:
    return (x + amount).clamp_(0, 1)


def _contrast(x: Tensor, amount: Tensor) -> Tensor:
    """Around the mean grey of RGB; around each channel's own mean where there are others."""
    mean = _grey(x) if x.shape[1] == 3 else x
    mean = mean.mean(dim=(2, 3), keepdim=True)
    return (x * amount).add_(mean * (1 - amount)).clamp_(0, 1)


def _saturation(x: Tensor, amount: Tensor) -> Tensor:
    return (x * amount).add_(_grey(x) * (1 - amount)).clamp_(0, 1)


def _hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue by a share of the circle; value and chroma stay.

    With the hue h in sixths of the circle, red is full where abs(h - 3) >= 2 and gone where it is
    at most 1, linear between; green and blue are full within 1 of 2 and 4, and gone from 2 on.
    """
    red, green, blue = x.unbind(1)
    most = torch.maximum(torch.maximum(red, green), blue)
    least = torch.minimum(torch.minimum(red, green), blue)
    chroma = most - least
    scale = chroma.clamp(min=1e-12).reciprocal_()
    sixth = torch.where(
        most == red,
        (green - blue).mul_(scale),
        torch.where(
            most == green,
            (blue - red).mul_(scale).add_(2),
            (red - green).mul_(scale).add_(4),
        ),
    )
    circle = sixth.div_(6).add_(turn[:, 0])
    sixth = circle.sub_(circle.floor()).mul_(6)
    shares = (
        (sixth - 3).abs_().sub_(1),
        (sixth - 2).abs_().neg_().add_(2),
        (sixth - 4).abs_().neg_().add_(2),
    )
    return torch.stack([share.clamp_(0, 1).mul_(chroma).add_(least) for share in shares], 1)


def _blur(x: Tensor, sigma: Tensor, reach: int) -> Tensor:
    """Gaussian blur with a sigma an image, one axis after the other, mirrored at the border."""
    n, channels, height, width = x.shape
    at = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (at / sigma.view(-1, 1)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    padded = F.pad(x, (reach,) * 4, mode="reflect")
    planes = padded.reshape(1, n * channels, height + 2 * reach, width + 2 * reach)
    planes = F.conv2d(planes, kernel[:, None, None, :], groups=n * channels)
    planes = F.conv2d(planes, kernel[:, None, :, None], groups=n * channels)
    return planes.view(n, channels, height, width)

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.transforms.v2 import functional as peer

from unlabel.data.augment import (
    BRIGHTNESS,
    CONTRAST,
    GREY,
    HUE,
    ORDER,
    SATURATION,
    SIGMA,
    SOLARIZE,
    apply_colours,
    blur_reach,
    check_recipe,
    draw_colours,
)
from unlabel.data.augment_cpu import colour_pixels
from unlabel.data.random import keys
from unlabel.data.spec import Photometric
from unlabel.errors import ConfigError

ALL = Photometric(0.8, 0.4, 0.4, 0.4, 0.1, grey_p=0.2, blur_p=0.5, solarize_p=0.2)
STRONG = Photometric(1.0, 0.8, 0.8, 0.8, 0.5, blur_p=1.0, blur_sigma=(0.1, 3.0))
JITTER = Photometric(1.0, 0.4, 0.4, 0.2, 0.1)
TOLERANCE = 2e-5


def key(count: int) -> np.ndarray:
    return keys(0, "colour", np.zeros(count), np.arange(count))


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """uint8 (24, 56, 56, 3): windows of photographs, one of them grey and one of them black."""
    photos = load_sample_images().images
    rng = np.random.default_rng(0)
    windows = []
    for i in range(24):
        top, left = rng.integers(0, 300), rng.integers(0, 500)
        windows.append(photos[i % 2][top : top + 56, left : left + 56])
    crops = np.stack(windows)
    crops[3] = crops[3].mean(axis=2, keepdims=True).astype(np.uint8)
    crops[4] = 0
    return crops


def reference(crop: Tensor, drawn: np.ndarray, recipe: Photometric) -> Tensor:
    """torchvision's functions on one image, one after the other."""
    for kind in drawn[ORDER:GREY].astype(int):
        if kind == BRIGHTNESS and recipe.additive_brightness:
            crop = (crop + float(drawn[BRIGHTNESS])).clamp(0, 1)
        elif kind == BRIGHTNESS:
            crop = peer.adjust_brightness(crop, float(drawn[BRIGHTNESS]))
        elif kind == CONTRAST:
            crop = peer.adjust_contrast(crop, float(drawn[CONTRAST]))
        elif kind == SATURATION:
            crop = peer.adjust_saturation(crop, float(drawn[SATURATION]))
        elif kind == HUE:
            crop = peer.adjust_hue(crop, float(drawn[HUE]))
    if drawn[GREY]:
        crop = peer.rgb_to_grayscale(crop, 3)
    if drawn[SIGMA]:
        side = crop.shape[-1]
        kernel = 2 * blur_reach(recipe, side) + 1
        crop = peer.gaussian_blur(crop, [kernel, kernel], [float(drawn[SIGMA]) * side / 224])
    return peer.solarize(crop, recipe.solarize_threshold) if drawn[SOLARIZE] else crop


OFFSET = replace(ALL, additive_brightness=True)


@pytest.mark.parametrize(
    "recipe", [ALL, STRONG, JITTER, OFFSET], ids=["all", "strong", "jitter", "offset"]
)
@pytest.mark.parametrize("on", ["device", "processor"])
def test_each_image_is_as_torchvision_makes_it(crops, recipe, on):
    drawn = draw_colours(recipe, key(len(crops)))
    planes = torch.from_numpy(crops).permute(0, 3, 1, 2)
    if on == "device":
        unit = (planes.float() / 255)[:, None]
        ours = apply_colours(unit, torch.from_numpy(drawn)[:, None], recipe)[:, 0]
    else:
        ours = torch.from_numpy(colour_pixels(crops, drawn, recipe)).permute(0, 3, 1, 2)
    for image, plane, parameters in zip(ours, planes, drawn, strict=True):
        theirs = reference(plane.float() / 255, parameters, recipe)
        apart = (image - theirs).abs()
        # Solarising is a step: a pixel at the threshold may fall on either side of it.
        at_step = (theirs - recipe.solarize_threshold).abs() < TOLERANCE
        assert apart[~at_step].max() < TOLERANCE
        assert image.min() > -TOLERANCE
        assert image.max() < 1 + TOLERANCE


def test_device_and_processor_agree_on_views_and_large_crops():
    photo = load_sample_images().images[0][:224, :224]
    crops = np.stack([photo, photo[::-1]] * 2)
    drawn = draw_colours(ALL, key(4))
    unit = torch.from_numpy(crops).permute(0, 3, 1, 2).float().div(255).view(2, 2, 3, 224, 224)
    on_device = apply_colours(unit, torch.from_numpy(drawn).view(2, 2, -1), ALL)
    here = torch.from_numpy(colour_pixels(crops, drawn, ALL)).permute(0, 3, 1, 2)
    # Solarising may flip single pixels at the threshold.
    apart = (on_device.flatten(0, 1) - here).abs()
    assert (apart > TOLERANCE).float().mean() < 1e-4


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_channels_take_what_makes_sense_of_them(channels):
    recipe = Photometric(1.0, 0.4, 0.4, blur_p=0.5, solarize_p=0.3)
    check_recipe("view", recipe, channels, "uint16")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 65536, (12, 20, 20, channels)).astype(np.uint16)
    drawn = draw_colours(recipe, key(12))
    unit = torch.from_numpy(pixels.astype(np.float32) / 65535).permute(0, 3, 1, 2)
    on_device = apply_colours(unit.clone()[:, None], torch.from_numpy(drawn)[:, None], recipe)
    here = torch.from_numpy(colour_pixels(pixels, drawn, recipe)).permute(0, 3, 1, 2)
    for i in range(12):
        # Each channel by itself is a grey image of torchvision's.
        one = [reference(unit[i, c : c + 1], drawn[i], recipe) for c in range(channels)]
        theirs = torch.cat(one)
        sure = (theirs - recipe.solarize_threshold).abs() > TOLERANCE
        for ours in (on_device[i, 0], here[i]):
            assert (ours - theirs).abs()[sure].max() < TOLERANCE


def test_parameters_follow_the_recipe():
    drawn = draw_colours(ALL, key(20_000))
    jittered = drawn[:, ORDER] >= 0
    assert abs(jittered.mean() - 0.8) < 0.015
    assert (np.sort(drawn[jittered, ORDER:GREY]) == [0, 1, 2, 3]).all()
    assert (drawn[~jittered, ORDER:GREY] == -1).all()
    orders = np.unique(drawn[jittered, ORDER:GREY], axis=0, return_counts=True)[1]
    assert len(orders) == 24
    assert stats.chisquare(orders).pvalue > 1e-3
    for kind in (BRIGHTNESS, CONTRAST, SATURATION):
        assert stats.kstest((drawn[:, kind] - 0.6) / 0.8, "uniform").pvalue > 1e-3
    assert stats.kstest((drawn[:, HUE] + 0.1) / 0.2, "uniform").pvalue > 1e-3
    blurred = drawn[:, SIGMA] > 0
    assert abs(blurred.mean() - 0.5) < 0.015
    assert stats.kstest((drawn[blurred, SIGMA] - 0.1) / 1.9, "uniform").pvalue > 1e-3
    assert abs(drawn[:, GREY].mean() - 0.2) < 0.015
    assert abs(drawn[:, SOLARIZE].mean() - 0.2) < 0.015
    coins = np.stack([jittered, blurred, drawn[:, GREY], drawn[:, SOLARIZE]])
    assert np.abs(np.corrcoef(coins)[~np.eye(4, dtype=bool)]).max() < 0.03


def test_a_factor_is_never_negative():
    drawn = draw_colours(Photometric(1.0, 1.5, 1.5, 1.5), key(1000))
    assert drawn[:, BRIGHTNESS : SATURATION + 1].min() >= 0
    assert drawn[:, BRIGHTNESS].max() > 2.4


def test_an_additive_brightness_is_drawn_around_nothing():
    drawn = draw_colours(Photometric(1.0, 0.4, additive_brightness=True), key(20_000))
    assert stats.kstest((drawn[:, BRIGHTNESS] + 0.4) / 0.8, "uniform").pvalue > 1e-3


def test_operators_without_width_are_left_out():
    drawn = draw_colours(Photometric(1.0, brightness=0.4), key(50))
    assert set(np.unique(drawn[:, ORDER:GREY])) == {-1, BRIGHTNESS}


@pytest.mark.parametrize(
    "recipe",
    [Photometric(0.5, hue=0.1), Photometric(0.5, saturation=0.1), Photometric(grey_p=0.1)],
)
def test_colours_of_what_has_none_are_refused(recipe):
    check_recipe("first", recipe, 3, "uint8")
    with pytest.raises(ConfigError, match=r"'first'.*5 channels"):
        check_recipe("first", recipe, 5, "uint8")


def test_jitter_of_floats_is_refused_and_blur_is_not():
    check_recipe("first", Photometric(blur_p=1.0), 1, "float32")
    with pytest.raises(ConfigError, match=r"'first'.*float32"):
        check_recipe("first", Photometric(0.5, brightness=0.4), 1, "float32")

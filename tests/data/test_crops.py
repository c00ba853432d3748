from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from sklearn.datasets import load_sample_images
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop

from unlabel.data.crops import cut, draw_boxes
from unlabel.data.pixels import shrunk
from unlabel.data.random import keys
from unlabel.data.spec import Crops


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.array(load_sample_images().images[0][:400, :500])


def boxes(crops: Crops, height: int, width: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    sizes = np.tile(np.int32([height, width]), (count, 1))
    return draw_boxes(crops, sizes, keys(0, "crop", np.zeros(count), np.arange(count)))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    low=st.floats(0.01, 1),
    ratio=st.floats(0.2, 1),
)
def test_boxes_lie_inside_their_image(height, width, low, ratio):
    drawn, _ = boxes(Crops(8, scale=(low, 1), ratio=(ratio, 1 / ratio)), height, width, 20)
    assert (drawn[:, :2] >= 0).all()
    assert (drawn[:, 2:] >= 1).all()
    assert (drawn[:, 0] + drawn[:, 2] <= height).all()
    assert (drawn[:, 1] + drawn[:, 3] <= width).all()


@pytest.mark.parametrize(("height", "width"), [(500, 500), (300, 640), (40, 30)])
def test_boxes_are_distributed_as_torchvisions(height, width):
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, (0.08, 1), (3 / 4, 4 / 3)) for _ in range(3000)]
    )
    ours, flips = boxes(Crops(8, scale=(0.08, 1)), height, width, 3000)
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    areas = [box[:, 2] * box[:, 3] for box in (ours, theirs)]
    assert stats.ks_2samp(*areas).pvalue > 1e-3
    assert abs(flips.mean() - 0.5) < 0.04


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 10), (33, 800)])
def test_the_fall_back_is_torchvisions(height, width):
    """Full area never fits such images, so that both take the central box."""
    ours, _ = boxes(Crops(8, scale=(1, 1)), height, width, 3)
    theirs = RandomResizedCrop.get_params(torch.empty(3, height, width), [1, 1], [3 / 4, 4 / 3])
    assert ours.tolist() == [list(theirs)] * 3


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [60, 224, 301, 390])
@pytest.mark.parametrize("flip", [False, True])
def test_cuts_of_photographs_are_pillows(photo, interpolation, side, flip):
    out = np.empty((224, 224, 3), np.uint8)
    cut(photo, np.array([3, 7, side, side + 9]), flip, 224, interpolation, out)
    box = Image.fromarray(photo[3 : 3 + side, 7 : 16 + side])
    how = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[interpolation]
    reference = np.asarray(box.resize((224, 224), how)).astype(int)
    error = np.abs(out - (reference[:, ::-1] if flip else reference))
    assert error.max() <= 1
    assert error.mean() < 0.05


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 13])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("flip", [False, True])
def test_cuts_of_any_channels_and_type(channels, kind, flip):
    rng = np.random.default_rng(0)
    most = 1 if kind is np.float32 else np.iinfo(kind).max
    # Away from black and white: what overshoots there is cut off between the two passes.
    pixels = ((0.25 + 0.5 * rng.random((50, 60, channels))) * most).astype(kind)
    pixels.setflags(write=False)
    out = np.empty((24, 24, channels), kind)
    cut(pixels, np.array([1, 2, 45, 31]), flip, 24, "bicubic", out)
    reference = np.stack([resized(pixels[1:46, 2:33, c], 24) for c in range(channels)], axis=2)
    tolerance = {np.uint8: 1, np.uint16: 0.55, np.float32: 1e-5}[kind]
    assert np.abs(out - (reference[:, ::-1] if flip else reference)).max() <= tolerance


def resized(plane: np.ndarray, size: int) -> np.ndarray:
    """One channel: by Pillow for 8 bits, which rounds between its two passes; else in float64."""
    if plane.dtype == np.uint8:
        return np.asarray(Image.fromarray(plane).resize((size, size), Image.BICUBIC)).astype(int)
    exact = torch.tensor(plane.astype(np.float64))[None, None]
    exact = F.interpolate(exact, (size, size), mode="bicubic", antialias=True)[0, 0].numpy()
    return exact.clip(0, 65535) if plane.dtype == np.uint16 else exact


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_a_crop_of_its_own_size_is_not_resampled(channels):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, channels), dtype=np.uint8)
    out = np.empty((28, 28, channels), np.uint8)
    cut(pixels, np.array([4, 9, 28, 28]), True, 28, "bicubic", out)
    np.testing.assert_array_equal(out, pixels[4:32, 9:37][:, ::-1])


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 12])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_any_number_of_channels_is_shrunk_as_each_would_be_alone(channels: int, dtype: str):
    rng = np.random.default_rng(0)
    pixels = (rng.random((31, 29, channels)) * 200).astype(dtype)
    small = shrunk(pixels, 13, 11)
    assert small.shape == (13, 11, channels)
    assert small.dtype == dtype
    for c in range(channels):
        assert np.array_equal(small[:, :, c : c + 1], shrunk(pixels[:, :, c : c + 1], 13, 11))

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from fake_store import FakeStore, fake_store, with_layers
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabel.data.background import remove_background
from unlabel.data.layers import cut_mask, cut_segments
from unlabel.data.loader import stream
from unlabel.data.spec import BackgroundRemoval, Batch, Crops, Photometric, ViewSpec
from unlabel.data.views import Batches
from unlabel.errors import ConfigError

MEAN = (0.5, 0.25, 0.75)


def spec(p: float = 0.5, fill: str = "zero", segments: int | None = 4) -> ViewSpec:
    removal = BackgroundRemoval(p, fill)
    return ViewSpec(
        {
            "large": Crops(16, 2, background=removal, segments=segments),
            "small": Crops(8, 2, scale=(0.05, 0.2), photometric=Photometric(grey_p=0.5)),
        }
    )


def batches(store: FakeStore, views: ViewSpec, **changed) -> Batches:
    return Batches(store, views, **({"seed": 0, "batch_size": 10} | changed))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("fill", ["zero", "mean", "grey", "blur"])
def test_what_is_not_kept_is_filled_and_the_rest_stays(dtype, fill):
    most = 1 if dtype == "float32" else np.iinfo(dtype).max
    rng = np.random.default_rng(0)
    before = (rng.random((20, 20, 3)) * most).astype(dtype)
    keep = rng.random((20, 20)) < 0.4
    after = before.copy()
    remove_background(after, keep, fill, MEAN, 0.5)
    np.testing.assert_array_equal(after[keep], before[keep])
    wanted = {
        "zero": np.zeros(3),
        "mean": np.array(MEAN) * most,
        "grey": np.full(3, 0.5) * most,
        "blur": cv2.GaussianBlur(before, (0, 0), 2.0)[~keep],
    }[fill]
    np.testing.assert_allclose(after[~keep], np.broadcast_to(wanted, after[~keep].shape), atol=0.5)


def test_a_crop_that_the_foreground_does_not_reach_stays_whole():
    pixels = np.full((4, 4, 3), 7, np.uint8)
    remove_background(pixels, np.zeros((4, 4), bool), "zero", MEAN, 0.5)
    assert (pixels == 7).all()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_masks_are_cut_where_their_pixels_are(data):
    """Against a loop: each cell's middle, in the image, in the mask."""
    height, width, down = (data.draw(st.integers(1, most)) for most in (40, 40, 3))
    image = np.array([height, width])
    mask = np.arange(-(-height // down) * -(-width // down)).reshape(-(-height // down), -1)
    h, w = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    top, left = data.draw(st.integers(0, height - h)), data.draw(st.integers(0, width - w))
    side, flip = data.draw(st.integers(1, 9)), data.draw(st.booleans())
    found = cut_mask(mask, np.array([top, left, h, w]), flip, image, side)
    for row in range(side):
        for column in range(side):
            across = side - 1 - column if flip else column
            y = (top + (row + 0.5) / side * h) / height * mask.shape[0]
            x = (left + (across + 0.5) / side * w) / width * mask.shape[1]
            assert found[row, column] == mask[int(y + 1e-9), int(x + 1e-9)] or (
                min(y % 1, 1 - y % 1, x % 1, 1 - x % 1) < 1e-6
            )


def test_a_mask_of_the_image_itself_is_cut_as_the_image_is():
    """Crops without resizing: pixels and mask must agree everywhere, mirrored or not."""
    store = fake_store(images=6, small=16, large=17)
    for image in store.images:
        image.setflags(write=True)
        image[:] = np.where(image[:, :, :1] > 128, 255, 0)
    store = with_layers(store)
    found = {int(i): image[:, :, 0] for i, image in zip(store.ids, store.images, strict=True)}
    store.masks["foreground"].masks = found
    whole = Crops(16, 2, scale=(1.0, 1.0), ratio=(1, 1), background=BackgroundRemoval(1.0, "grey"))
    batch = batches(store, ViewSpec({"a": whole}), batch_size=6)[0]
    pixels = batch.views["a"]
    assert {len(crop.unique()) for crop in pixels.flatten(0, 1)} == {2}
    assert (pixels.amax((2, 3, 4)) == 255).all()


def test_segments_are_those_that_fill_most_of_a_cell():
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 5, (32, 32)).astype(np.uint8)
    box, image = np.array([4, 8, 24, 16]), np.array([32, 32])
    found = cut_segments(mask, box, False, image, 3)
    fine = cut_mask(mask, box, False, image, 12)
    for row, column in np.ndindex(3, 3):
        cell = fine[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4].ravel()
        assert found[row, column] == np.bincount(cell).argmax()
    flipped = cut_segments(mask, box, True, image, 3)
    np.testing.assert_array_equal(flipped, found[:, ::-1])


def test_coins_fall_as_often_as_asked_and_only_for_their_group():
    store = with_layers(fake_store(images=200))
    masked = batches(store, spec(0.3), batch_size=200)[0]
    asked = len(store.masks["foreground"].asked)
    plain = batches(store, spec(0.0), batch_size=200)[0]
    assert len(store.masks["foreground"].asked) == asked
    changed = (masked.views["large"] != plain.views["large"]).flatten(2).any(2)
    assert 0.2 < changed.float().mean() < 0.35
    assert changed.any(1).sum() <= asked == len(set(store.masks["foreground"].asked)) < 200
    both = changed.all(1).float().mean()  # the coins of two views are independent
    assert both < 0.15
    assert torch.equal(masked.views["small"], plain.views["small"])
    assert torch.equal(masked.segments["large"], plain.segments["large"])


def test_a_crop_without_its_background_keeps_the_rest_of_its_pixels():
    store = with_layers(fake_store())
    plain, masked = (batches(store, spec(p))[0].views["large"] for p in (0.0, 1.0))
    same = (plain == masked).all(2)
    assert (masked.amax(2)[~same] == 0).all()
    assert 0.1 < same.float().mean() < 0.9
    first = batches(store, spec(1.0), fixed=True)[0]
    whole = batches(store, spec(0.0), fixed=True)[0]
    assert torch.equal(first.views["large"][0], whole.views["large"][0])  # it has no mask


def test_each_crop_has_a_grey_of_its_own():
    store = with_layers(fake_store())
    crops = batches(store, spec(1.0, "grey"))[0].views["large"].flatten(0, 1)
    plain = batches(store, spec(0.0))[0].views["large"].flatten(0, 1)
    greys = [crop.mT[(crop != one).mT].unique() for crop, one in zip(crops, plain, strict=True)]
    levels = {int(grey[0]) for grey in greys if len(grey)}
    assert all(len(grey) <= 1 for grey in greys)
    assert len(levels) > 8


def test_segments_are_the_same_part_of_the_image_in_every_crop():
    batch = batches(with_layers(fake_store()), spec())[0]
    assert batch.segments.keys() == {"large"}
    assert batch.segments["large"].shape == (10, 2, 4, 4)
    assert batch.segments["large"].dtype == torch.uint8
    assert len(batch.segments["large"].unique()) == 4


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    return {**batch.views, "segments": batch.segments["large"], "ids": batch.ids}


def assert_same(one: Batch, two: Batch) -> None:
    for name, tensor in tensors(one).items():
        assert torch.equal(tensor, tensors(two)[name]), name


@pytest.mark.parametrize(("world", "accumulate"), [(1, 2), (2, 1), (5, 2)])
def test_a_global_batch_is_dealt_out_with_its_masks(world, accumulate):
    store = with_layers(fake_store())
    whole = batches(store, spec())[3]
    parts = [
        batches(store, spec(), rank=rank, world=world, accumulate=accumulate)[number]
        for rank in range(world)
        for number in range(3 * accumulate, 4 * accumulate)
    ]
    joined = {name: torch.cat([tensors(part)[name] for part in parts]) for name in tensors(whole)}
    for name, tensor in tensors(whole).items():
        assert torch.equal(joined[name], tensor), name


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("start", "workers"), [(0, 1), (0, 3), (2, 0), (3, 3)])
def test_the_same_bits_with_any_workers_and_resumed_anywhere(start, workers):
    made = batches(with_layers(fake_store()), spec(0.5, "blur"))
    expected = list(stream(made, 0, 4, workers=0, device="cpu"))[start:]
    found = list(stream(made, start, 4, workers=workers, device="cpu"))
    for one, two in zip(found, expected, strict=True):
        assert_same(one, two)
        assert one.views["large"].dtype == torch.float32


def test_a_store_without_the_layer_is_refused_at_once():
    with pytest.raises(ConfigError, match="'foreground'"):
        batches(fake_store(), spec(0.5, segments=None))
    with pytest.raises(ConfigError, match="'segments'"):
        batches(fake_store(), spec(0.0))
    batches(fake_store(), spec(0.0, segments=None))[0]


def test_a_random_grey_of_floats_is_refused():
    store = with_layers(fake_store(dtype="float32"))
    views = ViewSpec({"a": Crops(8, background=BackgroundRemoval(0.5, "grey"))})
    with pytest.raises(ConfigError, match="known range"):
        batches(store, views)


def test_large_crops_are_blurred_through_small_ones():
    y, x = np.mgrid[:192, :192] / 192
    before = np.stack([255 * x, 255 * (np.hypot(y - 0.5, x - 0.5) < 0.3), 200 * y], axis=2)
    before = before.astype(np.uint8)
    after = before.copy()
    keep = np.zeros((192, 192), bool)
    keep[0, 0] = True
    remove_background(after, keep, "blur", MEAN, 0.5)
    wanted = cv2.GaussianBlur(before, (0, 0), 19.2).astype(int)
    assert np.abs(after - wanted)[~keep].mean() < 2

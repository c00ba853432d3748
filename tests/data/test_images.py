"""Whole images of one size: the right part of each, every kind of pixel, read once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unlabel.data import images as module
from unlabel.data.images import Images, centre, normalise, unit
from unlabel.data.store import Store


def ramp(height, width, channels=3, dtype=np.uint8):
    y, x = np.mgrid[:height, :width]
    return np.stack([y + x + c for c in range(channels)], axis=2).astype(dtype)


def test_small_images_are_seen_to_their_edges():
    image = ramp(28, 28)
    assert np.array_equal(centre(image, 28), image)


def test_long_images_lose_their_ends_evenly():
    image = ramp(20, 50)
    assert np.array_equal(centre(image, 20), image[:, 15:35])


def test_large_images_lose_the_border():
    image = np.zeros((256, 256, 3), np.uint8)
    image[16:-16, 16:-16] = 200  # 0.875 of 256 is 224
    assert (centre(image, 224) == 200).all()
    assert np.array_equal(centre(ramp(256, 256), 224), ramp(256, 256)[16:-16, 16:-16])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 7])
@pytest.mark.parametrize("side", [10, 40])
def test_any_pixels_keep_their_type_and_mean(dtype, channels, side):
    out = centre(ramp(side, side, channels, dtype), 20)
    assert out.shape == (20, 20, channels)
    assert out.dtype == dtype
    assert out.mean() == pytest.approx(ramp(side, side, channels).mean(), abs=1)


def test_batches_hold_every_image_in_order_and_are_read_once(shapes_store, monkeypatch):
    store = Store.open(shapes_store)
    images = Images(store, 16, batch_size=40)
    first = torch.cat(list(images))
    assert [len(batch) for batch in images] == [40, 40, 16]
    assert np.array_equal(first[7].permute(1, 2, 0).numpy(), store.image(7))
    monkeypatch.setattr(Store, "image", lambda *_: pytest.fail("read twice"))
    assert torch.equal(torch.cat(list(images)), first)


def test_large_sets_are_not_kept(shapes_store, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 1000)
    images = Images(Store.open(shapes_store), 16)
    a, b = (next(iter(images)) for _ in range(2))
    assert a is not b
    assert torch.equal(a, b)


def test_pixels_become_unit_and_normal():
    assert unit(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [0, 1]
    assert unit(torch.tensor([0, 65535], dtype=torch.uint16)).tolist() == [0, 1]
    assert unit(torch.tensor([-3.5, 900.0])).tolist() == [-3.5, 900]
    pixels = torch.tensor([[[[51]], [[255]]]], dtype=torch.uint8)
    torch.testing.assert_close(
        normalise(pixels, (0.2, 0.5), (0.1, 0.25)).flatten(), torch.tensor([0.0, 2.0])
    )

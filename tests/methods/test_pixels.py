from __future__ import annotations

import numpy as np
import pytest
import torch

from unlabel.methods.parts.pixels import local_standardise, patchify, standardise, unpatchify


def test_patchify_from_the_definition_and_back():
    images = torch.randn(2, 3, 8, 12)
    patches = patchify(images, 4)
    assert patches.shape == (2, 6, 48)
    fifth = images[1, :, 4:8, 4:8]
    assert torch.equal(patches[1, 4], fifth.permute(1, 2, 0).flatten())
    assert torch.equal(unpatchify(patches, 4, (2, 3)), images)


def test_standardise_against_numpy():
    patches = torch.randn(2, 5, 27, dtype=torch.float64)
    x = patches.numpy()
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(standardise(patches).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(("height", "width", "window"), [(9, 7, 5), (6, 6, 11), (8, 8, 3)])
def test_local_standardise_against_loops_over_windows(height, width, window):
    images = torch.randn(2, 3, height, width, dtype=torch.float64)
    x, half = images.numpy(), window // 2
    expected = np.empty_like(x)
    for row in range(height):
        for column in range(width):
            rows = slice(max(0, row - half), row + half + 1)
            columns = slice(max(0, column - half), column + half + 1)
            around = x[:, :, rows, columns].reshape(2, 3, -1)
            mean, variance = around.mean(-1), around.var(-1, ddof=1)
            expected[:, :, row, column] = (x[:, :, row, column] - mean) / np.sqrt(variance + 1e-6)
    np.testing.assert_allclose(local_standardise(images, window).numpy(), expected, rtol=1e-9)


def test_local_standardise_of_a_flat_image_is_zero():
    flat = torch.full((1, 3, 16, 16), 2.3)
    assert local_standardise(flat, 5).abs().max() < 0.01

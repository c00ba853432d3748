from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabel.analysis.groups import closeness, find_centroids, group_images, large_enough
from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig
from unlabel.data.store import Store


def test_clouds_of_points_are_found_whatever_the_seed():
    generator = torch.Generator().manual_seed(0)
    middles = torch.tensor([[5.0, 0.0], [0.0, 5.0], [-5.0, -5.0]])
    cloud = torch.arange(90) % 3
    points = middles[cloud] + torch.randn(90, 2, generator=generator)
    for seed in range(3):
        centroids = find_centroids(points, 3, seed)
        nearest = closeness(points, centroids).argmax(1)
        assert {len(set(nearest[cloud == c].tolist())) for c in range(3)} == {1}
        assert len(set(nearest.tolist())) == 3


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), groups=st.integers(1, 6))
def test_the_closest_centroid_is_the_nearest(seed: int, groups: int):
    rng = np.random.default_rng(seed)
    points, centroids = rng.normal(size=(20, 4)), rng.normal(size=(groups, 4))
    distances = ((points[:, None] - centroids) ** 2).sum(2)
    scores = closeness(torch.from_numpy(points), torch.from_numpy(centroids))
    assert np.array_equal(scores.argmax(1).numpy(), distances.argmin(1))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 999), least=st.integers(1, 40))
def test_groups_that_stay_are_large_enough_and_take_no_more_than_they_must(seed: int, least: int):
    scores = torch.randn(60, 7, generator=torch.Generator().manual_seed(seed))
    kept = large_enough(scores, least)
    sizes = scores[:, kept].argmax(1).bincount(minlength=len(kept))
    assert len(kept) == 1 or sizes.min() >= least
    if scores.argmax(1).bincount(minlength=7).min() >= least:
        assert len(kept) == 7


def test_members_of_a_small_group_join_the_nearest_of_the_others():
    scores = torch.tensor([[3.0, 0, 0]] * 4 + [[0, 3.0, 0]] * 4 + [[0, 1.0, 2.0]])
    kept = large_enough(scores, 2)
    assert kept.tolist() == [0, 1]
    assert scores[:, kept].argmax(1).tolist() == [0] * 4 + [1] * 5


@pytest.fixture
def grouped(shapes_store: Path):
    store = Store.open(shapes_store)
    train, held_out = store.holdout(0.2, 100, seed=0)
    rest = train.select(np.arange(len(train)) % 2 == 0)
    torch.manual_seed(0)
    backbone = build_backbone(ModelConfig(name="resnet18", image_size=16)).eval()

    def group(least: int = 1, seed: int = 0) -> np.ndarray:
        return group_images(
            backbone, rest, held_out, groups=3, least=least, seed=seed, device="cpu"
        )

    return group, rest, held_out


def test_every_image_of_both_views_has_a_group_and_no_other_has(grouped):
    group, rest, held_out = grouped
    found = group()
    inside = np.isin(np.arange(96), [*rest.ids, *held_out.ids])
    assert found.shape == (96,)
    assert (found[inside] >= 0).all()
    assert (found[~inside] == -1).all()
    assert set(found[rest.ids]) == {0, 1, 2}


def test_groups_repeat_and_are_numbered_without_gaps(grouped):
    group, rest, _ = grouped
    assert np.array_equal(group(), group())
    found = group(least=12)
    sizes = np.bincount(found[rest.ids])
    assert sizes.min() >= 12

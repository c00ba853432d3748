from __future__ import annotations

import numpy as np
import pytest
from fake_store import fake_store

from unlabel.data.augment import GREY, ORDER, SIGMA, SOLARIZE, draw_colours
from unlabel.data.random import keys
from unlabel.data.recipes import RECIPES
from unlabel.data.spec import Crops, Photometric, ViewSpec
from unlabel.data.views import Batches

STRONG = (0.8, 0.8, 0.8, 0.2)
WEAK = (0.4, 0.4, 0.2, 0.1)
ASYMMETRIC = ("byol", "mocov3", "dino")
PUBLISHED = {
    # jitter of brightness, contrast, saturation and hue; probabilities of blur and of solarising
    # for the first large crop, the second, and small crops
    "simclr": (STRONG, (0.5, 0), (0.5, 0), (0.5, 0)),
    "swav": (STRONG, (0.5, 0), (0.5, 0), (0.5, 0)),
    "byol": (WEAK, (1.0, 0), (0.1, 0.2), (0.5, 0)),
    "mocov3": (WEAK, (1.0, 0), (0.1, 0.2), (0.5, 0)),
    "dino": (WEAK, (1.0, 0), (0.1, 0.2), (0.5, 0)),
}


def views(name: str) -> list[Photometric]:
    """Colours of the first large crop, of the second, and of a small one."""
    recipe = RECIPES[name]
    return [recipe.large[0], recipe.large[-1], recipe.small]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_parameter_is_the_published_one(name: str):
    jitter, *others = PUBLISHED[name]
    for colours, (blur, solarize) in zip(views(name), others, strict=True):
        assert (colours.brightness, colours.contrast, colours.saturation, colours.hue) == jitter
        assert (colours.jitter_p, colours.grey_p) == (0.8, 0.2)
        assert (colours.blur_p, colours.solarize_p) == (blur, solarize)
        assert colours.blur_sigma == (0.1, 2.0)
        assert colours.solarize_threshold == 0.5
        assert colours.additive_brightness == (name == "byol")


def test_views_differ_in_three_recipes_and_none_changes_nothing():
    assert {name for name, recipe in RECIPES.items() if len(recipe.large) == 2} == {*ASYMMETRIC}
    assert RECIPES.keys() == {"none", *PUBLISHED}
    assert all(colours.is_identity for colours in views("none"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_draws_follow_the_recipe_view_by_view(name: str):
    count = 20_000
    key = keys(0, name, np.zeros(count, int), np.arange(count))
    _, *published = PUBLISHED[name]
    for colours, (blur, solarize) in zip(views(name), published, strict=True):
        drawn = draw_colours(colours, key)
        shares = [(drawn[:, place] > 0).mean() for place in (SIGMA, SOLARIZE, GREY)]
        assert shares == pytest.approx([blur, solarize, 0.2], abs=0.015)
        assert (drawn[:, ORDER] >= 0).mean() == pytest.approx(0.8, abs=0.015)


@pytest.mark.parametrize("name", ASYMMETRIC)
def test_the_two_crops_of_a_batch_are_drawn_unlike(name: str):
    crops = {f"large_{i}": Crops(8, photometric=c) for i, c in enumerate(RECIPES[name].large)}
    batches = Batches(fake_store(), ViewSpec(crops), seed=0, batch_size=20)
    drawn = [batches[n].colours for n in range(20)]
    first, second = (np.concatenate([d[g][:, 0].numpy() for d in drawn]) for g in crops)
    assert (first[:, SIGMA] > 0).all()
    assert (first[:, SOLARIZE] == 0).all()
    assert 0.05 < (second[:, SIGMA] > 0).mean() < 0.15
    assert 0.13 < (second[:, SOLARIZE] > 0).mean() < 0.27
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.2


def test_strength_scales_the_jitter_alone():
    recipe = RECIPES["simclr"].adapted(strength=0.5, blur=True, channels=3, floats=False)
    [colours] = recipe.large
    amounts = colours.brightness, colours.contrast, colours.saturation, colours.hue
    assert amounts == (0.4, 0.4, 0.4, 0.1)
    assert (colours.jitter_p, colours.grey_p, colours.blur_p) == (0.8, 0.2, 0.5)


def test_blur_can_be_left_out():
    recipe = RECIPES["dino"].adapted(strength=1, blur=False, channels=3, floats=False)
    assert {colours.blur_p for colours in (*recipe.large, recipe.small)} == {0}
    assert recipe.large[1].solarize_p == 0.2


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (5, "uint16"), (2, "float32")])
def test_images_of_any_kind_get_what_makes_sense_of_them(name: str, channels: int, dtype: str):
    recipe = RECIPES[name].adapted(
        strength=1, blur=True, channels=channels, floats=dtype == "float32"
    )
    kinds = enumerate((*recipe.large, recipe.small))
    crops = {f"view_{i}": Crops(8, photometric=colours) for i, colours in kinds}
    store = fake_store(8, channels, dtype)
    batch = Batches(store, ViewSpec(crops), seed=0, batch_size=8)[0]  # refuses what makes none
    assert all(view.shape[2] == channels for view in batch.views.values())
    if name != "none":
        assert recipe.large[0].blur_p > 0

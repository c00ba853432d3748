from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlabel.backbones.build import build_backbone
from unlabel.data.store import Store, StoreInfo
from unlabel.dividing import LEAST_BATCHES
from unlabel.errors import ConfigError, UsageError
from unlabel.machine import Machine
from unlabel.methods.registry import methods
from unlabel.rules import choose
from unlabel.training.split import FEWEST, left_to_learn

LAPTOP = Machine("CPU", 2, 8.0, "cpu", None, None, bf16=False)
CLUSTER = Machine("CPU", 32, 256.0, "cuda", "GPU", 80.0, bf16=True)


@pytest.fixture
def store(shapes_store: Path) -> Store:
    return Store.open(shapes_store)


def of_size(store: Store, images: int, side: int) -> Store:
    """The store as if it had so many images of that side; rules look at nothing else."""
    found = Store(store.path, replace(store.info, images=images, median_side=side, min_side=side))
    return found


@pytest.mark.parametrize(
    ("images", "side", "machine", "model", "size", "patch"),
    [
        (96, 16, LAPTOP, "resnet_nano", 16, None),
        (60_000, 28, LAPTOP, "resnet_nano", 28, None),
        (3_000, 192, LAPTOP, "resnet_nano", 128, None),
        (60_000, 32, CLUSTER, "vit_micro", 32, 4),
        (60_000, 120, CLUSTER, "vit_small_patch16_224", 112, 16),
        (2_000_000, 500, CLUSTER, "vit_base_patch16_224", 224, 16),
    ],
)
def test_models_and_sizes_follow_the_images_and_the_machine(
    store: Store, images: int, side: int, machine: Machine, model: str, size: int, patch: int
):
    found = choose(of_size(store, images, side), machine, {}).config.model
    assert (found.name, found.image_size, found.patch_size) == (model, size, patch)


@pytest.mark.parametrize(
    ("method", "machine", "model"),
    [
        ("mae", LAPTOP, "vit_micro"),
        ("byol", LAPTOP, "resnet_nano"),
        ("byol", CLUSTER, "resnet18"),
        ("splitmask", CLUSTER, "vit_small_patch16_224"),
    ],
)
def test_a_method_that_was_asked_for_gets_a_network_that_suits_it(store, method, machine, model):
    found = choose(of_size(store, 3000, 200), machine, {"method": method}).config
    assert found.model.name == model


@pytest.mark.parametrize(
    ("model", "method"),
    [("resnet50", "simclr"), ("swinv2_s", "simmim"), ("vit_tiny_patch16_224", "splitmask")],
)
@pytest.mark.parametrize("machine", [LAPTOP, CLUSTER], ids=["laptop", "cluster"])
def test_a_network_that_was_asked_for_gets_a_method_that_suits_it(store, model, method, machine):
    found = choose(of_size(store, 3000, 200), machine, {"model.name": model}).config
    assert found.method == method


@pytest.mark.parametrize(
    ("model", "batch", "optimizer", "lr"),
    [
        ("resnet18", 512, "sgd", 0.2),
        ("resnet18", 1024, "lars", 0.3),
        ("vit_micro", 1024, "adamw", 5e-4),
    ],
)
def test_lars_is_for_large_batches_of_convolutions(store, model, batch, optimizer, lr):
    asked = {"method": "simclr", "model.name": model, "batch_size": batch}
    choice = choose(of_size(store, 50_000, 64), CLUSTER, asked)
    assert (choice.config.optim.optimizer, choice.config.optim.lr) == (optimizer, lr)
    assert ("LARS" in choice.reasons.get("optim.optimizer", "")) == (optimizer != "lars")
    assert choice.reasons.get("optim.lr", "").endswith(
        f"goes with {optimizer}" if optimizer != "lars" else ""
    )
    plain = choose(of_size(store, 50_000, 64), CLUSTER, asked, tune=False)
    assert plain.config.optim.optimizer == "lars"


@pytest.mark.parametrize(
    ("method", "side", "optimizer", "lr"),
    [("byol", 32, "adamw", 2e-3), ("byol", 100, "sgd", 0.2), ("simclr", 32, "sgd", 0.2)],
)
def test_short_runs_of_byol_use_adamw(store, method, side, optimizer, lr):
    optim = choose(of_size(store, 5000, side), LAPTOP, {"method": method}).config.optim
    assert (optim.optimizer, optim.lr) == (optimizer, lr)


@pytest.mark.parametrize(
    ("method", "model", "optimizer", "lr"),
    [
        ("simclr", "resnet18", "adamw", 5e-4),
        ("simclr", "resnet18", "lars", 0.3),
        ("byol", "vit_micro", "lars", 0.3),
        ("mae", "vit_micro", "sgd", 0.2),
        ("dino", "resnet18", "sgd", 0.2),
    ],
)
def test_an_optimiser_that_was_asked_for_gets_a_rate_that_suits_it(
    store, method, model, optimizer, lr
):
    asked = {"method": method, "model.name": model, "optim.optimizer": optimizer}
    optim = choose(of_size(store, 50_000, 64), CLUSTER, asked).config.optim
    assert (optim.optimizer, optim.lr) == (optimizer, lr)


@pytest.mark.parametrize(
    ("method", "side", "scaled"),
    [
        ("simclr", 32, "sqrt"),
        ("relicv2", 32, "none"),
        ("moclr", 32, "none"),
        ("mocov3", 32, "none"),
        ("byol", 32, "linear"),
        ("relicv2", 100, "sqrt"),
        ("mae", 32, "linear"),
    ],
)
def test_how_rates_follow_small_batches(store, method, side, scaled):
    config = choose(of_size(store, 5000, side), LAPTOP, {"method": method}).config
    assert config.optim.scale_lr == scaled


def test_another_optimiser_brings_no_decay_that_climbs_and_falls_as_far(store):
    for method in ("dino", "esvit"):
        optim = choose(
            of_size(store, 50_000, 64), CLUSTER, {"method": method, "optim.optimizer": "sgd"}
        ).config.optim
        assert (optim.weight_decay, optim.weight_decay_end) == (5e-4, None)
    own = {"method": "dino", "optim.optimizer": "sgd", "optim.weight_decay_end": 0.3}
    assert choose(of_size(store, 50_000, 64), CLUSTER, own).config.optim.weight_decay_end == 0.3
    swav = {"method": "swav", "model.name": "vit_small_patch16_224"}
    optim = choose(of_size(store, 50_000, 200), CLUSTER, swav).config.optim
    assert optim.lr / optim.min_lr == pytest.approx(1000)


def test_colours_that_were_asked_for_are_judged_by_their_own_strength(store):
    for method, colours, strength in (("simclr", "byol", 1.0), ("byol", "simclr", 0.5)):
        asked = {"method": method, "options.colours": colours}
        options = choose(of_size(store, 5000, 32), LAPTOP, asked).config.options
        assert options.get("strength", 1.0) == strength


def test_an_optimiser_that_was_asked_for_gets_its_rate_in_short_runs(store):
    for method, optimizer, lr in (("byol", "sgd", 0.2), ("dino", "lars", 0.3)):
        asked = {"method": method, "optim.optimizer": optimizer}
        config = choose(of_size(store, 5000, 32), LAPTOP, asked).config
        assert (config.optim.optimizer, config.optim.lr) == (optimizer, lr)
    assert config.options["out"] == 2048


@pytest.mark.parametrize("model", ["wide_resnet50_2", "resnext50_32x4d", "seresnet50"])
def test_every_network_of_the_family_is_a_resnet(store, model):
    config = choose(of_size(store, 5000, 200), CLUSTER, {"model.name": model}).config
    assert (config.method, config.optim.optimizer, config.model.drop_path) == ("simclr", "sgd", 0)


@pytest.mark.parametrize(("side", "enlarge"), [(8, None), (12, 2), (64, 2), (128, None)])
def test_small_images_are_seen_at_twice_their_side_where_a_resnet_can(
    store: Store, side: int, enlarge: int | None
):
    config = choose(of_size(store, 96, side), LAPTOP, {"method": "simclr"}).config
    assert config.model.enlarge == enlarge
    build_backbone(config.model)  # refuses images that are too small for the factor


def test_small_images_are_not_blurred(store: Store):
    for side, blur in ((32, False), (100, True)):
        asked = {"method": "byol"}
        found = choose(of_size(store, 5000, side), CLUSTER, asked).config
        assert found.options.get("blur", True) is blur


def test_small_images_have_no_small_crops(store: Store):
    for side, small in ((32, 0), (100, None)):
        found = choose(of_size(store, 5000, side), CLUSTER, {"method": "swav"}).config
        assert found.options.get("small") == small
        assert (
            "small"
            not in choose(of_size(store, 5000, 32), CLUSTER, {"method": "byol"}).config.options
        )


def test_backgrounds_are_settled_as_the_run_begins(store: Store, monkeypatch):
    """So that masks which are made later do not stop it from going on."""
    without = choose(store, LAPTOP, {"method": "relicv2"})
    assert without.config.options["background"] == 0
    assert "no foreground masks" in without.reasons["options.background"]
    monkeypatch.setattr(Store, "layers", frozenset({"foreground"}))
    assert choose(store, LAPTOP, {"method": "relicv2"}).config.options["background"] == 0.1
    asked = {"method": "relicv2", "options.background": 0.3}
    assert choose(store, LAPTOP, asked).config.options["background"] == 0.3
    assert "background" not in choose(store, LAPTOP, {"method": "byol"}).config.options


@pytest.mark.parametrize("asked", [{}, {"optim.lr": 1e-4}, {"model.name": "vit_small_patch16_224"}])
@pytest.mark.parametrize(("side", "machine"), [(32, LAPTOP), (200, CLUSTER)])
def test_the_floor_of_swav_follows_its_rate(store: Store, asked: dict, side: int, machine: Machine):
    """4.8 falls to 0.0048 as published, whatever the optimiser."""
    found = choose(of_size(store, 5000, side), machine, {"method": "swav", **asked}).config.optim
    assert found.min_lr == pytest.approx(found.lr / 1000)
    with pytest.raises(ConfigError, match=r"min_lr.*above lr"):
        choose(store, machine, {"method": "swav", "optim.lr": 1e-4, "optim.min_lr": 1e-3})


def test_rows_are_the_images_that_count(store: Store, tmp_path: Path):
    np.save(tmp_path / "rows.npy", np.arange(100))
    asked = {"method": "simclr", "rows": str(tmp_path / "rows.npy"), "epochs": 10}
    config = choose(of_size(store, 50_000, 200), CLUSTER, asked).config
    assert (config.batch_size, config.steps) == (16, 63)


@pytest.mark.parametrize("method", ["dino", "esvit", "swav", "relicv2"])
def test_large_crops_stand_in_for_small_ones_that_are_left_out(store: Store, method: str):
    for machine in (LAPTOP, CLUSTER):
        config = choose(of_size(store, 5000, 32), machine, {"method": method}).config
        assert tuple(config.options["scale"]) == (0.2, 1.0)


@given(images=st.integers(22, 3000), machine=st.sampled_from([LAPTOP, CLUSTER]))
def test_any_number_of_images_leaves_dnc_two_groups(images: int, machine: Machine):
    """Of two batches each, from what is left to learn from; see `dividing`."""
    info = StoreInfo(images, (), {}, 3, "uint8", 32, 32, (0.5,) * 3, (0.2,) * 3, "0")
    config = choose(Store(Path("none"), info), machine, {"method": "dnc"}).config
    left = left_to_learn(images, config.validation_fraction, config.validation_images)
    assert left // max(FEWEST, LEAST_BATCHES * config.batch_size) >= 2


def test_the_base_of_dnc_is_adapted_as_it_would_be_alone(store: Store):
    small = of_size(store, 5000, 32)
    asked = {"method": "dnc", "options.base_method": "relicv2"}
    assert choose(small, LAPTOP, asked).config.options["base_options"] == {
        "small": 0,
        "background": 0.0,
    }
    given_others = {**asked, "options.base_options": {"small": 2, "hidden": 16}}
    found = choose(small, LAPTOP, given_others).config.options["base_options"]
    assert found == {"small": 2, "hidden": 16, "background": 0.0}
    assert given_others["options.base_options"] == {"small": 2, "hidden": 16}
    assert "base_options" not in choose(small, LAPTOP, {"method": "dnc"}).config.options


def test_every_choice_has_its_reason_and_what_was_asked_has_none(store: Store):
    choice = choose(store, LAPTOP, {"steps": 7, "optim.lr": 0.5, "model.name": None})
    assert "steps" not in choice.reasons
    assert "optim.lr" not in choice.reasons
    assert {"method", "model.name", "model.image_size", "batch_size"} <= set(choice.reasons)
    assert (choice.config.steps, choice.config.optim.lr) == (7, 0.5)


def test_the_length_is_the_papers_on_an_accelerator(store: Store):
    """300 ImageNet epochs, and 5,000 epochs for few images (SplitMask, Table 3)."""
    large = choose(of_size(store, 1_281_167, 224), CLUSTER, {}).config
    assert large.steps * large.batch_size == pytest.approx(300 * 1_281_167, rel=1e-3)
    few = choose(of_size(store, 8_144, 224), CLUSTER, {}).config
    assert few.steps * few.batch_size == pytest.approx(5000 * 8_144, rel=1e-3)


def test_epochs_are_counted_in_images(store: Store):
    found = choose(of_size(store, 1000, 32), LAPTOP, {"epochs": 3, "batch_size": 100}).config
    assert found.steps == 30


def test_steps_and_epochs_together_are_refused(store: Store):
    with pytest.raises(UsageError, match="not both"):
        choose(store, LAPTOP, {"steps": 1, "epochs": 1})


def test_an_unknown_setting_is_named(store: Store):
    with pytest.raises(ConfigError, match="colour"):
        choose(store, LAPTOP, {"optim.colour": "blue"})


@pytest.mark.parametrize("name", sorted(methods()))
@pytest.mark.parametrize("machine", [LAPTOP, CLUSTER], ids=["laptop", "cluster"])
def test_every_method_gets_a_configuration_with_its_recipe(
    store: Store, name: str, machine: Machine
):
    method = methods()[name]
    asked = {"method": name, "batch_size": 4096}
    config = choose(of_size(store, 50_000, 224), machine, asked).config
    assert config.optim == method.recipe
    convolutional = config.model.name.startswith("resnet")
    assert config.model.drop_path == (0 if convolutional else method.drop_path)

from __future__ import annotations

import pytest
import torch

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig
from unlabel.data.recipes import RECIPES
from unlabel.data.spec import Batch
from unlabel.errors import ConfigError
from unlabel.methods.base import DataInfo
from unlabel.methods.parts.multicrop import (
    MultiCropOptions,
    ViewOptions,
    encode,
    large_crops,
    small_crops,
    view_spec,
)

DATA = DataInfo(64, 0, mean=(0.5,) * 3, std=(0.25,) * 3)
SWIN = {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4}


def spec(options: ViewOptions, name: str = "resnet18", size: int = 224, patch: int | None = None):
    arguments = SWIN if name.startswith("swin") else {}
    model = ModelConfig(name=name, image_size=size, patch_size=patch, arguments=arguments)
    with torch.device("meta" if not arguments else "cpu"):
        return view_spec(options, build_backbone(model), DATA)


def test_asymmetric_recipes_make_a_group_of_each_kind():
    crops = spec(ViewOptions(colours="byol")).crops
    assert list(crops) == ["large_0", "large_1"]
    assert [c.photometric for c in crops.values()] == list(RECIPES["byol"].large)
    [crops] = spec(ViewOptions(colours="swav")).crops.values()
    assert crops.count == 2


@pytest.mark.parametrize(("large", "counts"), [(2, [1, 1]), (3, [2, 1]), (4, [2, 2])])
def test_kinds_take_turns_among_several_large_crops(large: int, counts: list[int]):
    crops = spec(MultiCropOptions(large=large, small=2)).crops
    assert [c.count for c in crops.values()] == [*counts, 2]
    assert [c.size for c in crops.values()] == [224, 224, 96]
    assert crops["small"].scale == (0.05, 0.14)
    assert crops["small"].photometric == RECIPES["byol"].small


@pytest.mark.parametrize(
    ("name", "size", "patch", "small"),
    [
        ("resnet18", 32, None, 14),
        ("vit_small_patch16_224", 224, 16, 96),
        ("vit_small_patch16_224", 32, 4, 12),
        ("swinv2_s", 32, 4, 32),  # windows of a fixed size
    ],
)
def test_small_crops_are_three_sevenths_of_the_side_in_whole_patches(name, size, patch, small):
    crops = spec(MultiCropOptions(small=1), name, size, patch).crops
    assert crops["small"].size == small


def test_a_size_of_small_crops_is_taken_where_it_suits_and_refused_with_a_reason_elsewhere():
    asked = MultiCropOptions(small=1, small_size=20)
    assert spec(asked, "resnet18", 32).crops["small"].size == 20
    assert spec(asked, "vit_small_patch16_224", 32, 4).crops["small"].size == 20
    with pytest.raises(ConfigError, match="multiples of 16"):
        spec(asked, "vit_small_patch16_224", 224, 16)
    with pytest.raises(ConfigError, match="it takes 32"):
        spec(asked, "swinv2_s", 32, 4)


def test_small_crops_leave_a_resnet_no_cell_to_halve():
    """It halves 16 pixels to one cell before its last stage halves again."""
    net = build_backbone(ModelConfig(name="resnet18", image_size=32, enlarge=1))
    assert view_spec(MultiCropOptions(small=1), net, DATA).crops["small"].size == 17
    with pytest.raises(ConfigError, match="at least 17"):
        view_spec(MultiCropOptions(small=1, small_size=16), net, DATA)
    with pytest.raises(ConfigError, match="Use at least 9 pixels"):
        build_backbone(ModelConfig(name="resnet18", image_size=8, enlarge=2))


def test_crops_come_in_order_and_are_encoded_in_one_pass():
    views = {
        "large_0": torch.zeros(2, 2, 3, 8, 8),
        "large_1": torch.ones(2, 1, 3, 8, 8),
        "small": torch.full((2, 2, 3, 4, 4), 5.0),
    }
    batch = Batch(views, {}, torch.arange(2))
    sizes = []

    def network(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return images.mean((1, 2, 3))

    assert [z.tolist() for z in encode(network, large_crops(batch))] == [[0, 0], [0, 0], [1, 1]]
    assert [z.tolist() for z in encode(network, small_crops(batch))] == [[5, 5], [5, 5]]
    assert sizes == [6, 4]
    assert (
        encode(network, small_crops(Batch({"large_0": views["large_0"]}, {}, torch.arange(2))))
        == []
    )

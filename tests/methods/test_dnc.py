from __future__ import annotations

from pathlib import Path

import pytest
import torch

from contract import test_methods as contract
from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig, validated
from unlabel.data.spec import Batch
from unlabel.errors import ConfigError, DataError, InputMissing
from unlabel.methods.base import DataInfo, Progress
from unlabel.methods.dnc import DnC, DnCOptions
from unlabel.methods.registry import build_method

START = Progress(0, 10)


def toy() -> DnC:
    method = contract.build("dnc", "resnet").eval()
    assert isinstance(method, DnC)
    return method


def batch_of(method: DnC, ids: list[int]) -> Batch:
    batch = contract.batch_for(method, len(ids))
    batch.ids = torch.tensor(ids)
    return batch


def squared_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of the directions, in float64."""
    a, b = a.double(), b.double()
    difference = a / a.square().sum().sqrt() - b / b.square().sum().sqrt()
    return float(difference.square().sum())


@torch.no_grad()
def test_loss_against_float64_loops():
    """Each image alone, by its group's expert: the toy's groups are the rows' remainders by 2."""
    method = toy()
    batch = batch_of(method, [7, 2, 4, 9, 3])
    base, *experts = method.frozen.networks
    total = 0.0
    for views in batch.views.values():
        for row, crops in zip(batch.ids.tolist(), views, strict=True):
            for crop in crops:
                features = method.backbone.embed(crop[None])
                group = row % 2
                special = method.expert_regressors[group](features)[0]
                total += squared_distance(
                    method.base_regressor(features)[0], base.embed(crop[None])[0]
                )
                total += squared_distance(special, experts[group].embed(crop[None])[0])
    losses = method(batch, START)
    assert losses.total.item() == pytest.approx(total / 10, rel=1e-4)
    assert losses.total == losses.scalars["to_base"] + losses.scalars["to_expert"]


@pytest.mark.parametrize(("sign", "expected"), [(1, 0.0), (-1, 8.0)])
def test_a_perfect_student_costs_nothing_and_its_opposite_most(sign: int, expected: float):
    method = toy()
    networks = method.frozen.networks
    method.backbone = networks[1] = networks[2] = networks[0]
    stretch = torch.nn.Linear(16, 16, bias=False)
    torch.nn.init.eye_(stretch.weight)
    with torch.no_grad():
        stretch.weight *= 3 * sign
    method.base_regressor = stretch
    method.expert_regressors = torch.nn.ModuleList([stretch, stretch])
    total = method(batch_of(method, [0, 1, 2]), START).total
    assert total.item() == pytest.approx(expected, abs=1e-5)


def test_regressors_of_other_groups_get_a_gradient_of_zeros():
    method = toy().train()
    method(batch_of(method, [0, 2, 4, 6]), START).total.backward()
    ours, other = ([p.grad for p in r.parameters()] for r in method.expert_regressors)
    assert all(grad.any() for grad in ours)
    assert not any(grad.any() for grad in other)


def test_frozen_networks_move_along_and_are_neither_trained_nor_saved():
    method = toy().train()
    assert not any(network.training for network in method.frozen.networks)
    assert not any("frozen" in name for name in method.state_dict())
    assert not any("frozen" in name for name, _ in method.named_parameters())
    method.double()
    assert {p.dtype for n in method.frozen.networks for p in n.parameters()} == {torch.float64}
    assert not any(p.requires_grad for n in method.frozen.networks for p in n.parameters())


def build(stages: str | None, size: int = 32, channels: int = 3) -> None:
    backbone = build_backbone(ModelConfig(name="resnet18", image_size=size, in_chans=channels))
    data = DataInfo(64, 0, mean=(0.5,) * channels, std=(0.25,) * channels)
    build_method("dnc", backbone, {"stages": stages}, data)


def test_stages_that_are_not_there_are_told(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"options.stages=RUN/stages"):
        build(None)
    with pytest.raises(InputMissing, match=r"groups.npy is missing"):
        build(str(tmp_path))


def test_networks_of_other_channels_are_refused():
    with pytest.raises(DataError, match="3 channels; these have 32 and 5"):
        build(contract.toy_stages(3).name, channels=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_method": "dnc"}, "cannot be the base of itself"),
        ({"base_method": "moclar"}, "Did you mean 'moclr'"),
        ({"base_options": {"temperatur": 1}}, "Did you mean temperature"),
        ({"groups": 1}, "groups"),
        ({"shares": [1, 1]}, "shares"),
        ({"shares": [1, 0, 1]}, "shares"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        validated(DnCOptions, options, "options of dnc")


def test_three_stages_are_alike_long_and_the_base_is_moclr():
    options = DnCOptions()
    assert options.shares == (1, 1, 1)
    assert options.base_method == "moclr"
    assert options.groups == 5

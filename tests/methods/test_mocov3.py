from __future__ import annotations

import math

import pytest
import torch
from matching_toys import START, batch_for, crops_of, float64_directions, project, shake, toy

from unlabel.config import ModelConfig
from unlabel.errors import ConfigError
from unlabel.methods.mocov3 import MoCoV3Options

VIT = ModelConfig(
    name="vit_nano",
    image_size=16,
    patch_size=4,
    arguments={"embed_dim": 32, "depth": 1, "num_heads": 2},
)
FOR_VITS = {
    "layers": 3,
    "predictor_norm": True,
    "freeze_patches": True,
    "temperature": 0.2,
    "scale": (0.08, 1.0),
}


def one_direction(queries, keys, temperature):
    """Cross-entropy of each query's own key among all, times twice the temperature, in loops."""
    q, k = float64_directions(queries), float64_directions(keys)
    total = 0.0
    for i, row in enumerate(q):
        scores = [float(row @ key) / temperature for key in k]
        total += math.log(sum(map(math.exp, scores))) - scores[i]
    return 2 * temperature * total / len(q)


@pytest.mark.parametrize("temperature", [1.0, 0.2])
@torch.no_grad()
def test_loss_against_float64_loops(temperature):
    method = toy("mocov3", temperature=temperature)
    shake(method.target.network)
    batch = batch_for(method)
    first, second = crops_of(batch)
    queries = [method.predictor(project(method, crop)) for crop in (first, second)]
    keys = [project(method.target.network, crop) for crop in (first, second)]
    expected = one_direction(queries[0], keys[1], temperature)
    expected += one_direction(queries[1], keys[0], temperature)
    assert method(batch, START).total.item() == pytest.approx(expected, rel=1e-5)


def test_equal_features_cost_the_log_of_the_images():
    method = toy("mocov3", temperature=0.5)
    for parameter in method.predictor.parameters():
        torch.nn.init.zeros_(parameter)
    total = method(batch_for(method, 6), START).total
    assert total.item() == pytest.approx(2 * 0.5 * 2 * math.log(6), rel=1e-5)


def test_heads_are_those_of_the_papers_resnet_50():
    options = MoCoV3Options()
    assert (options.hidden, options.out, options.temperature) == (4096, 256, 1.0)
    assert (options.decay, options.scale) == (0.99, (0.2, 1.0))
    method = toy("mocov3")
    assert [type(layer).__name__ for layer in method.projector] == [
        "Linear",
        "BatchNorm1d",
        "ReLU",
        "Linear",
        "BatchNorm1d",
    ]
    assert not method.projector[-1].affine
    assert len(method.predictor) == 4
    biases = [n for n, p in method.named_parameters() if n[:4] in ("proj", "pred") and "bias" in n]
    assert biases == ["projector.1.bias", "predictor.1.bias"]  # of batch norms


def test_heads_and_frozen_patches_for_vits():
    method = toy("mocov3", VIT, **FOR_VITS).train()
    linear = torch.nn.Linear
    assert sum(isinstance(layer, linear) for layer in method.projector) == 3
    assert isinstance(method.predictor[-1], torch.nn.BatchNorm1d)
    assert not method.predictor[-1].affine
    method(batch_for(method), START).total.backward()
    frozen = [n for n, p in method.backbone.named_parameters() if not p.requires_grad]
    assert frozen
    assert all("patch_embed" in name for name in frozen)


def test_a_resnet_has_no_patches_to_freeze():
    with pytest.raises(ConfigError, match="no patch embedding"):
        toy("mocov3", freeze_patches=True)

from __future__ import annotations

import pytest
import torch
from lightly.loss import NTXentLoss
from matching_toys import START, batch_for, crops_of, project, toy

from unlabel.methods.simclr import SimCLROptions


def gradients(method, total):
    parameters = [p for p in method.parameters() if p.requires_grad]
    return torch.autograd.grad(total, parameters, retain_graph=True)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("images", [2, 5])
def test_loss_and_gradients_are_those_of_lightlys_nt_xent(temperature, images):
    method = toy("simclr", temperature=temperature)
    batch = batch_for(method, images)
    peer = NTXentLoss(temperature=temperature, gather_distributed=False)
    expected = peer(*[project(method, crop) for crop in crops_of(batch)])
    losses = method(batch, START)
    torch.testing.assert_close(losses.total, expected)
    pairs = gradients(method, losses.total), gradients(method, expected)
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_both_crops_have_one_recipe_and_the_defaults_are_the_papers():
    options = SimCLROptions()
    assert (options.temperature, options.hidden, options.out) == (0.1, 2048, 128)
    [crops] = toy("simclr").spec.crops.values()
    assert (crops.count, crops.scale, crops.flip) == (2, (0.08, 1.0), 0.5)
    colours = crops.photometric
    assert (colours.brightness, colours.hue, colours.blur_p) == (0.8, 0.2, 0.5)


def test_the_projector_is_two_layers_with_a_norm_between():
    kinds = [type(layer).__name__ for layer in toy("simclr").projector]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear"]


def test_the_same_view_twice_matches_at_once():
    method = toy("simclr")
    batch = batch_for(method)
    for views in batch.views.values():
        views[:, 1] = views[:, 0]
    assert method(batch, START).scalars["match_accuracy"] == 1

from __future__ import annotations

import pytest
import torch
from lightly.loss import NegativeCosineSimilarity
from matching_toys import START, batch_for, crops_of, project, shake, toy

from unlabel.methods.base import Progress
from unlabel.methods.byol import BYOLOptions, regression
from unlabel.methods.parts.momentum import SLOWEST_START, cosine_decay, start_decay


def test_regression_is_an_affine_form_of_lightlys_negative_cosine():
    torch.manual_seed(0)
    a, b = torch.randn(2, 7, 12)
    torch.testing.assert_close(regression(a, b), 2 + 2 * NegativeCosineSimilarity()(a, b))
    assert regression(a, 3 * a).item() == pytest.approx(0, abs=1e-6)
    assert regression(a, -a).item() == pytest.approx(4)


def test_each_prediction_meets_the_targets_projection_of_the_other_view():
    method = toy("byol")
    shake(method.target.network)
    batch = batch_for(method)
    first, second = crops_of(batch)
    peer = NegativeCosineSimilarity()
    expected = 4 + 2 * sum(
        peer(method.predictor(project(method, seen)), project(method.target.network, wanted))
        for seen, wanted in ((first, second), (second, first))
    )
    losses = method(batch, START)
    torch.testing.assert_close(losses.total, expected, rtol=1e-4, atol=1e-5)


def test_no_gradient_reaches_the_target_and_all_others_get_one():
    method = toy("byol").train()
    method(batch_for(method), START).total.backward()
    assert all(p.grad is None and not p.requires_grad for p in method.target.parameters())
    assert all(p.grad is not None for p in method.backbone.parameters())


def test_the_target_moves_by_the_scheduled_share_and_keeps_its_own_statistics():
    method = toy("byol", decay=0.95).train()
    target = method.target.network
    shake(target)
    before = [p.clone() for p in target.parameters()]
    online = [*method.backbone.parameters(), *method.projector.parameters()]
    method(batch_for(method), START)
    statistics = [b.clone() for b in target.buffers()]
    progress = Progress(300, 10_000)
    method.after_step(progress)
    decay = cosine_decay(0.95, progress)
    for old, new, follows in zip(before, target.parameters(), online, strict=True):
        torch.testing.assert_close(new, decay * old + (1 - decay) * follows)
    assert all(torch.equal(old, new) for old, new in zip(statistics, target.buffers(), strict=True))


def test_defaults_are_those_of_300_epochs():
    options = BYOLOptions()
    assert (options.hidden, options.out, options.decay) == (4096, 256, 0.99)
    method = toy("byol")
    assert (method.recipe.optimizer, method.recipe.lr, method.recipe.weight_decay) == (
        "lars",
        0.3,
        1e-6,
    )
    for head in (method.projector, method.predictor):
        kinds = [type(layer).__name__ for layer in head]
        assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
        assert head[-1].bias is None


def test_decay_begins_as_published_in_long_runs_and_lower_in_short_ones():
    assert start_decay(0.99, 93_826) == 0.99  # 300 epochs of ImageNet at 4,096 images
    assert start_decay(0.97, 12_510) == 0.97  # 40 epochs
    assert start_decay(0.99, 100) == SLOWEST_START
    assert SLOWEST_START < start_decay(0.99, 10_000) < 0.99
    assert cosine_decay(0.9, Progress(0, 100)) == pytest.approx(0.9)
    assert cosine_decay(0.9, Progress(50, 100)) == pytest.approx(0.95)
    assert cosine_decay(0.9, Progress(100, 100)) == pytest.approx(1)

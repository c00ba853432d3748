from __future__ import annotations

import pytest
import torch
from lightly.loss import SwaVLoss
from lightly.models.modules import SwaVProjectionHead
from matching_toys import batch_for, toy
from torch import Tensor
from torch.nn.functional import normalize

from contract import test_methods as contract
from unlabel.data.spec import Batch
from unlabel.methods.base import Progress
from unlabel.methods.parts.soft_targets import match_other_crops
from unlabel.methods.swav import SwAV, SwAVOptions, prototype_count

LATE = Progress(5, 10)


def swav(**options) -> SwAV:
    return toy("swav", **({"prototypes": 12, "small": 3, "small_size": 8} | options))


def scores_of(method: SwAV, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """Each large and each small crop's cosines with the prototypes, one crop at a time."""

    def scores(crop: Tensor) -> Tensor:
        direction = normalize(method.projector(method.backbone.embed(crop)), dim=1)
        return direction @ method.prototypes.weight.T

    crops = [[], []]
    for name, views in batch.views.items():
        crops[name == "small"] += [scores(crop) for crop in views.unbind(1)]
    return crops[0], crops[1]


def gradients(method: SwAV, loss: Tensor) -> dict[str, Tensor]:
    method.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("small", [0, 3])
@pytest.mark.parametrize("large", [2, 3])
def test_loss_and_gradients_are_lightlys(large: int, small: int):
    method = swav(large=large, small=small)
    batch = batch_for(method)
    loss = method(batch, LATE).total
    expected = SwaVLoss()(*scores_of(method, batch)).squeeze()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    ours, theirs = gradients(method, loss), gradients(method, expected)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-3, atol=1e-4, msg=name)


def test_matching_is_a_float64_loop_over_pairs():
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 3, 6), torch.randn(2, 3, 6).softmax(2)
    terms = [
        -(targets[t, b].double() * (logits[s, b].double() / 0.3).log_softmax(0)).sum()
        for t in range(2)
        for s in range(4)
        for b in range(3)
        if s != t
    ]
    expected = torch.stack(terms).mean().float()
    torch.testing.assert_close(match_other_crops(logits, targets, 0.3), expected)


def fixed(method: SwAV) -> SwAV:
    """Training, with the statistics of its norms as they are, so that crops do not mix."""
    method.train()
    method.backbone.eval()
    method.projector.eval()
    return method


def test_a_full_queue_takes_part_in_the_assignment():
    method = fixed(swav(queue=20))
    for step in range(4):  # four steps of five images fill it
        method(batch_for(method, seed=step), Progress(step, 40))
        method.after_step(Progress(step, 40))
    batch, progress = batch_for(method, seed=9), Progress(4, 40)
    queued = [method.prototypes(queue.rows) for queue in method.queues]
    large, small = scores_of(method, batch)
    loss = method(batch, progress).total
    torch.testing.assert_close(loss, SwaVLoss()(large, small, queued).squeeze(), rtol=1e-4, atol=0)
    assert not torch.allclose(loss, SwaVLoss()(large, small).squeeze(), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("options", "progress"),
    [
        ({"queue": 20}, Progress(3, 10)),  # not full
        ({"queue": 20}, Progress(40, 1000)),  # too early
        ({"queue": 20, "prototypes": 5}, Progress(4, 10)),  # a batch as large as the prototypes
        ({"queue": 0}, Progress(4, 10)),
    ],
)
def test_the_queue_stays_out_of_it(options: dict, progress: Progress):
    method = fixed(swav(**options))
    batch = batch_for(method)
    expected = SwaVLoss()(*scores_of(method, batch)).squeeze()
    torch.testing.assert_close(method(batch, progress).total, expected, rtol=1e-4, atol=0)


def test_the_queue_holds_the_directions_of_large_crops_of_each_micro_batch():
    method = fixed(swav(queue=20))
    parts = [batch_for(method, images, seed) for seed, images in ((1, 2), (2, 3))]
    with torch.no_grad():
        for part in parts:
            method(part, Progress(0, 10))
    method.after_step(Progress(0, 10))
    for i, queue in enumerate(method.queues):
        crops = torch.cat([part.views["large_0"][:, i] for part in parts])
        expected = normalize(method.projector(method.backbone.embed(crops)), dim=1)
        torch.testing.assert_close(queue.rows[:5], expected, rtol=1e-4, atol=1e-5)


def test_prototypes_are_held_at_first_and_have_length_one_after_each_step():
    method = swav(freeze=0.25).train()
    batch = batch_for(method)
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    start = method.prototypes.weight.clone()
    for step in range(4):
        optimizer.zero_grad()
        method(batch, Progress(step, 8)).total.backward()
        optimizer.step()
        method.after_step(Progress(step, 8))
        held = step < 2
        assert torch.allclose(method.prototypes.weight, start) == held
        assert method.prototypes.weight.grad.any() != held
        lengths = method.prototypes.weight.norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones(12))


def test_the_projector_is_the_published_one():
    ours = swav().projector
    theirs = SwaVProjectionHead(512, 32, 16).layers
    # Lightly's first layer has a bias, which the batch norm after it takes out again.
    assert [type(a) for a in ours] == [type(b) for b in theirs]
    assert ours[3].bias is not None


def test_defaults_are_the_published_ones():
    options = SwAVOptions()
    assert (options.large, options.small) == (2, 6)
    assert (options.scale, options.small_scale) == ((0.14, 1.0), (0.05, 0.14))
    assert (options.temperature, options.epsilon, options.iterations) == (0.1, 0.05, 3)
    assert (options.hidden, options.out, options.queue) == (2048, 128, 3840)
    assert options.freeze == pytest.approx(313 / (100 * 313))
    assert SwAV.recipe.lr * 4096 / 256 == pytest.approx(4.8)
    assert SwAV.recipe.min_lr * 4096 / 256 == pytest.approx(0.0048)


def test_small_sets_have_fewer_prototypes():
    assert prototype_count(1_281_167) == prototype_count(300_000) == 3000
    assert prototype_count(50_000) == 500
    assert prototype_count(100) == 30


@pytest.mark.parametrize("model", ["vit", "swin", "resnet"])
def test_every_family_of_backbones_learns(model: str):
    method = contract.build("swav", model, small=2)
    losses = contract.take_steps(method, contract.batch_for(method, 4), 8)
    assert losses[-1] < losses[0]

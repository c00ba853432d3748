from __future__ import annotations

import copy

import pytest
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import NNMemoryBankModule
from matching_toys import START, batch_for, crops_of, project, toy
from torch.nn.functional import normalize

from unlabel.methods.nnclr import NNCLROptions, queue_size
from unlabel.methods.parts.queue import Queue


def peer_loss(neighbours, predictions, temperature):
    """NNCLR's loss by Lightly: a query, its key, and the other images' keys as a memory bank."""
    losses = []
    for i, neighbour in enumerate(neighbours):
        others = torch.cat([predictions[:i], predictions[i + 1 :]])
        peer = NTXentLoss(temperature, memory_bank_size=(len(others), others.shape[1]))
        peer.memory_bank.bank = normalize(others, dim=1)
        losses.append(peer(neighbour[None], predictions[i : i + 1]))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("temperature", [0.1, 0.2])
def test_loss_is_that_of_lightlys_nearest_neighbours(temperature):
    method = toy("nnclr", temperature=temperature, queue=24)
    batch = batch_for(method)
    projected = [project(method, crop) for crop in crops_of(batch)]
    predicted = [method.predictor(z) for z in projected]
    bank = NNMemoryBankModule(size=(24, 16))
    bank.bank = method.queue.rows.clone()
    first, second = (bank(z.detach(), update=False) for z in projected)
    expected = peer_loss(first, predicted[1], temperature)
    expected = (expected + peer_loss(second, predicted[0], temperature)) / 2
    losses = method(batch, START)
    torch.testing.assert_close(losses.total, expected, rtol=1e-4, atol=1e-5)


def test_gradients_flow_through_the_predictions_of_all_images():
    """Also through those that are another image's negatives, which Lightly's bank detaches."""
    method = toy("nnclr", queue=24)
    batch = batch_for(method)
    expected = torch.zeros(())
    projected = [project(method, crop) for crop in crops_of(batch)]
    for own, other in ((0, 1), (1, 0)):
        queries = normalize(projected[own].detach(), dim=1)
        nearest = method.queue.rows[torch.cdist(queries, method.queue.rows).argmin(1)]
        predicted = normalize(method.predictor(projected[other]), dim=1)
        chances = (nearest @ predicted.T / 0.1).softmax(1)
        expected = expected - chances.diagonal().log().mean() / 2
    online = [*method.backbone.parameters(), *method.predictor.parameters()]
    ours = torch.autograd.grad(method(batch, START).total, online)
    theirs = torch.autograd.grad(expected, online)
    for mine, peers in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, peers, rtol=1e-3, atol=1e-4)


def test_the_queue_is_a_ring_of_directions():
    queue = Queue(5, 3)
    start = queue.rows.clone()
    torch.testing.assert_close(start.norm(dim=1), torch.ones(5))
    rows = 4 * normalize(torch.randn(9, 3), dim=1)
    queue.add(rows[:3])
    assert torch.equal(queue.rows[3:], start[3:])
    queue.add(rows[3:7])
    expected = rows[[5, 6, 2, 3, 4]] / 4  # the fourth and fifth, then over the oldest
    torch.testing.assert_close(queue.rows, expected)
    assert queue.place == 2
    queue.add(rows)  # more than it holds: the last ones
    torch.testing.assert_close(queue.rows.sort(0).values, (rows[4:] / 4).sort(0).values)
    assert torch.equal(queue.nearest(rows[4:] * 2), queue.nearest(rows[4:]))
    torch.testing.assert_close(queue.nearest(rows[4:]), rows[4:] / 4)


def test_only_training_steps_enqueue_and_every_micro_batch_does():
    method = toy("nnclr", queue=32)
    before = copy.deepcopy(method.state_dict())
    method.validation_loss(batch_for(method), START)
    method.train()
    parts = [batch_for(method, 4, seed) for seed in (1, 2)]
    expected = []
    for batch in parts:
        method(batch, START)
        crops = torch.cat(crops_of(batch))
        expected.append(project(copy.deepcopy(method), crops)[:4])
    assert torch.equal(method.queue.rows, before["queue.rows"])
    method.after_step(START)
    filled = normalize(torch.cat(expected), dim=1)
    torch.testing.assert_close(method.queue.rows[:8], filled, rtol=1e-3, atol=1e-4)
    assert torch.equal(method.queue.rows[8:], before["queue.rows"][8:])
    assert method.queue.place == 8
    method(parts[0], START)
    method.after_step(START)
    assert method.queue.place == 12


@pytest.mark.parametrize(
    ("images", "rows"),
    [(1, 256), (500, 256), (50_000, 16_384), (120_000, 32_768), (1_281_167, 98_304)],
)
def test_the_queue_holds_at_most_half_of_the_images(images, rows):
    assert queue_size(images) == rows


def test_a_given_queue_is_as_given_and_the_start_follows_the_seed():
    assert len(toy("nnclr", queue=33).queue.rows) == 33
    assert len(toy("nnclr", images=2000).queue.rows) == 512
    assert torch.equal(toy("nnclr").queue.rows, toy("nnclr").queue.rows)


def test_heads_are_the_papers():
    options = NNCLROptions()
    assert (options.hidden, options.predictor_hidden, options.out) == (2048, 4096, 256)
    assert options.temperature == 0.1
    method = toy("nnclr")
    kinds = [type(layer).__name__ for layer in method.projector]
    hidden = ["Linear", "BatchNorm1d", "ReLU"]
    assert kinds == hidden * 2 + hidden[:2]
    assert [type(layer).__name__ for layer in method.predictor] == [*hidden, "Linear"]

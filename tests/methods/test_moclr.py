from __future__ import annotations

import math

import pytest
import torch
from lightly.loss import NTXentLoss
from matching_toys import START, batch_for, crops_of, float64_directions, project, shake, toy

from unlabel.methods.moclr import MoCLROptions


def one_direction(queries, partners, same, temperature):
    """Cross-entropy of each query's partner among the keys of both views but its own, in loops."""
    q, k, s = (float64_directions(rows) for rows in (queries, partners, same))
    total = 0.0
    for i, row in enumerate(q):
        scores = [float(row @ key) / temperature for key in k]
        others = [float(row @ key) / temperature for j, key in enumerate(s) if j != i]
        total += math.log(sum(map(math.exp, scores + others))) - scores[i]
    return total / len(q)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@torch.no_grad()
def test_loss_against_float64_loops(temperature):
    method = toy("moclr", temperature=temperature)
    shake(method.target.network)
    batch = batch_for(method)
    queries = [project(method, crop) for crop in crops_of(batch)]
    keys = [project(method.target.network, crop) for crop in crops_of(batch)]
    expected = one_direction(queries[0], keys[1], keys[0], temperature)
    expected += one_direction(queries[1], keys[0], keys[1], temperature)
    assert method(batch, START).total.item() == pytest.approx(expected / 2, rel=1e-5)


@torch.no_grad()
def test_with_a_target_that_is_the_network_itself_it_is_lightlys_nt_xent():
    method = toy("moclr")
    batch = batch_for(method)
    peer = NTXentLoss(temperature=0.1, gather_distributed=False)
    expected = peer(*[project(method, crop) for crop in crops_of(batch)])
    torch.testing.assert_close(method(batch, START).total, expected)


def test_equal_features_cost_the_log_of_the_candidates():
    method = toy("moclr")
    for network in (method.projector, method.target.network.projector):
        for parameter in network.parameters():
            torch.nn.init.zeros_(parameter)
    assert method(batch_for(method, 6), START).total.item() == pytest.approx(math.log(11))


def test_keys_carry_no_gradient_and_the_target_follows():
    method = toy("moclr").train()
    before = [p.clone() for p in method.target.parameters()]
    batch = batch_for(method)
    method(batch, START).total.backward()
    assert all(p.grad is None for p in method.target.parameters())
    shake(method.backbone)
    method.after_step(START)
    moved = [not torch.equal(a, b) for a, b in zip(before, method.target.parameters(), strict=True)]
    assert any(moved)


def test_heads_are_byols_and_the_rest_simclrs():
    options = MoCLROptions()
    assert (options.hidden, options.out, options.decay) == (4096, 256, 0.99)
    assert (options.temperature, options.colours) == (0.1, "simclr")

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from unlabel.methods.parts import linear_cross_entropy as module
from unlabel.methods.parts.linear_cross_entropy import linear_cross_entropy

M, D, V = 37, 6, 11


def inputs(dtype=torch.float32):
    torch.manual_seed(0)
    features = torch.randn(M, D, dtype=dtype, requires_grad=True)
    weights = torch.rand(M, dtype=dtype) * (torch.rand(M) < 0.8)
    return features, nn.Linear(D, V, dtype=dtype), torch.randint(V, (M,)), weights


def reference(features, head, targets, weights):
    return weights @ cross_entropy(head(features), targets, reduction="none")


def gradients(loss, features, head):
    return torch.autograd.grad(3 * loss, (features, head.weight, head.bias))


@pytest.mark.parametrize("rows", [1, 8, 37, 100])
def test_value_and_gradients_equal_the_plain_ones_however_it_is_cut(monkeypatch, rows):
    monkeypatch.setitem(module.LOGITS, "cpu", rows * V)
    features, head, targets, weights = inputs()
    loss, right = linear_cross_entropy(features, head, targets, weights)
    expected = reference(features, head, targets, weights)
    torch.testing.assert_close(loss, expected)
    pairs = zip(gradients(loss, features, head), gradients(expected, features, head), strict=True)
    for mine, other in pairs:
        torch.testing.assert_close(mine, other)
    assert torch.equal(right, head(features).argmax(1) == targets)
    assert not right.requires_grad


def test_large_logits_do_not_overflow():
    features, head, targets, weights = inputs()
    loss, _ = linear_cross_entropy(features * 1e4, head, targets, weights)
    expected = reference(features.double() * 1e4, head.double(), targets, weights.double())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_under_autocast_it_is_a_linear_layer_of_lower_precision():
    features, head, targets, weights = inputs()
    exact = gradients(reference(features, head, targets, weights), features, head)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = linear_cross_entropy(features, head, targets, weights)
        logits = head(features)
    plain = weights @ cross_entropy(logits.float(), targets, reduction="none")
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    for mine, other in zip(gradients(loss, features, head), exact, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - other).norm() < 0.02 * other.norm()


def test_without_gradients_only_the_value_is_computed():
    features, head, targets, weights = inputs()
    with torch.no_grad():
        loss, _ = linear_cross_entropy(features, head, targets, weights)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, reference(features, head, targets, weights).detach())

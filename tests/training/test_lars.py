"""LARS against float64 versions of the published updates."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig, OptimConfig
from unlabel.training.optim import build_optimizer, set_learning_rate

ETA, MOMENTUM, DECAY = 1e-3, 0.9, 1.5e-6
RATES = (0.3, 0.2, 0.1)


class Toy(nn.Module):
    """A network with convolutions, norms and biases, and nothing else that learns."""

    def __init__(self) -> None:
        super().__init__()
        model = ModelConfig(name="resnet_nano", image_size=16)
        self.backbone = build_backbone(model)
        self.head = nn.Linear(self.backbone.dim, 3)


@pytest.fixture
def gradients() -> list[dict[str, Tensor]]:
    """Gradients of three steps, by the parameters' names."""
    torch.manual_seed(1)
    shapes = {name: p.shape for name, p in Toy().named_parameters()}
    return [
        {name: 0.01 * torch.randn(shape).double() for name, shape in shapes.items()} for _ in RATES
    ]


def trained(gradients: list[dict[str, Tensor]], decay: float = DECAY) -> dict[str, Tensor]:
    """Weights after three steps of ours, in float64 as well."""
    torch.manual_seed(0)
    toy = Toy().double()
    optim = OptimConfig(optimizer="lars", weight_decay=decay, betas=(MOMENTUM, 0.999))
    optimizer = build_optimizer(toy, optim)
    for rate, gradient in zip(RATES, gradients, strict=True):
        for name, parameter in toy.named_parameters():
            parameter.grad = gradient[name]
        set_learning_rate(optimizer, rate)
        optimizer.step()
    return {name: p.detach() for name, p in toy.named_parameters()}


def reference(
    gradients: list[dict[str, Tensor]], norm: Callable[[Tensor, Tensor, float], Tensor]
) -> dict[str, Tensor]:
    """The same, one parameter after another.

    Weight decay joins the gradient, the trust ratio scales the sum, momentum gathers it and the
    learning rate comes last. ``norm`` of (gradient, weights, decay) divides the trust ratio.
    """
    torch.manual_seed(0)
    weights = {name: p.detach().double() for name, p in Toy().named_parameters()}
    moving = {name: torch.zeros_like(w) for name, w in weights.items()}
    for rate, gradient in zip(RATES, gradients, strict=True):
        for name, w in weights.items():
            update = gradient[name]
            if w.ndim > 1:
                ratio = ETA * w.norm() / norm(update, w, DECAY)
                update = ratio * (update + DECAY * w)
            moving[name] = MOMENTUM * moving[name] + update
            weights[name] = w - rate * moving[name]
    return weights


def test_our_steps_are_those_of_the_lars_paper(gradients):
    found = trained(gradients)
    expected = reference(gradients, lambda g, w, decay: g.norm() + decay * w.norm())
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], atol=1e-9, rtol=0)


def test_our_steps_are_byols_up_to_the_share_of_the_decay(gradients):
    """BYOL's ratio divides by the norm of the sum; ours by the sum of the norms, no smaller."""
    torch.manual_seed(0)
    start = {name: p.detach().double() for name, p in Toy().named_parameters()}
    found = trained(gradients)
    expected = reference(gradients, lambda g, w, decay: (g + decay * w).norm())
    for name, weight in found.items():
        apart = (weight - expected[name]).norm() / (expected[name] - start[name]).norm()
        share = max(DECAY * start[name].norm() / step[name].norm() for step in gradients)
        assert apart <= 2 * share + 1e-6, name  # 1e-6: timm adds 1e-8 to the gradient's norm
        assert apart < 1e-4


def test_biases_and_norms_take_plain_steps_with_momentum(gradients):
    torch.manual_seed(0)
    toy = Toy().double()
    start = {name: p.detach().clone() for name, p in toy.named_parameters()}
    found = trained(gradients, decay=0.5)
    plain = [name for name, weight in start.items() if weight.ndim == 1]
    assert any("bn" in name for name in plain)
    assert "head.bias" in plain
    for name in plain:
        moving, expected = 0.0, start[name]
        for rate, gradient in zip(RATES, gradients, strict=True):
            moving = MOMENTUM * moving + gradient[name]
            expected = expected - rate * moving
        torch.testing.assert_close(found[name], expected)


def test_weights_are_adapted_without_decay_too(gradients):
    """Their step does not depend on the gradient's scale."""
    larger = [{name: 100 * g for name, g in step.items()} for step in gradients]
    ones, hundreds = trained(gradients, decay=0), trained(larger, decay=0)
    torch.testing.assert_close(ones["head.weight"], hundreds["head.weight"], rtol=1e-6, atol=0)
    assert not torch.allclose(ones["head.bias"], hundreds["head.bias"])

from __future__ import annotations

import math

import pytest
import torch
from matching_toys import START, batch_for, crops_of, float64_directions, project, shake, toy
from scipy.stats import vonmises_fisher

from unlabel.methods.cbyol import CBYOLOptions


def log_density(point, mean, kappa):
    return vonmises_fisher(mean.numpy(), kappa).logpdf(point.numpy())


def loop_loss(online, predictions, codes, targets, expected, options):
    """The published formula, image by image in float64, for (view 1, view 2) of everything."""
    total = 0.0
    count = len(codes[0])
    for own, other in ((0, 1), (1, 0)):
        for i in range(count):
            distance = (predictions[own][i] - targets[other][i]).square().sum()
            known = log_density(codes[own][i], online[own][i], options.kappa_e)
            guessed = log_density(codes[own][i], expected[own][i], options.kappa_b)
            total += options.weight * float(distance) + options.beta * (known - guessed)
    return total / count


@pytest.mark.parametrize("options", [{}, {"beta": 0.3, "weight": 2.0, "kappa_e": 500.0}])
@torch.no_grad()
def test_loss_against_float64_loops(options):
    method = toy("cbyol", **options)
    shake(method.target.network)
    batch = batch_for(method)
    crops = crops_of(batch)
    means = [float64_directions(method.predictor(project(method, crop))) for crop in crops]
    targets = [float64_directions(project(method.target.network, crop)) for crop in crops]
    expected = [float64_directions(method.backward_encoder(target.float())) for target in targets]
    predictions = [float64_directions(method.decoder(mean.float())) for mean in means]
    value = loop_loss(means, predictions, means, targets, expected, method.options)
    losses = method(batch, START)
    assert losses.total.item() == pytest.approx(value, rel=1e-5)


@torch.no_grad()
def test_while_training_the_code_is_noisy_and_the_rate_is_of_that_code(monkeypatch):
    method = toy("cbyol").train()
    seen = {}
    decode = method.decoder.forward
    monkeypatch.setattr(
        method.decoder, "forward", lambda codes: decode(seen.setdefault("codes", codes))
    )
    predict = method.predictor.forward
    monkeypatch.setattr(
        method.predictor, "forward", lambda x: seen.setdefault("predicted", predict(x))
    )
    rate = method(batch_for(method), START).scalars["rate"]
    cosines = (float64_directions(seen["predicted"]) * seen["codes"].double()).sum(1)
    # 1 - cosine is about half a chi-square of D - 1 degrees over kappa.
    assert 0.1 < ((1 - cosines).mean() * 2 * 16384 / 15).item() < 3
    torch.testing.assert_close(seen["codes"].norm(dim=1), torch.ones(10))
    assert rate.item() > 0


def test_gradients_reach_everything_but_the_target():
    method = toy("cbyol").train()
    method(batch_for(method), START).total.backward()
    for name, parameter in method.named_parameters():
        assert (parameter.grad is None) == name.startswith("target."), name


def test_the_backward_encoder_learns_from_the_rate_alone():
    method = toy("cbyol", beta=0.0).train()
    method(batch_for(method), START).total.backward()
    assert all(p.grad.abs().sum() == 0 for p in method.backward_encoder.parameters())


def test_defaults_are_those_of_300_epochs():
    options = CBYOLOptions()
    assert (options.kappa_e, options.kappa_b, options.beta, options.weight) == (16384, 10, 1, 5)
    assert (options.hidden, options.out, options.decay) == (4096, 256, 0.99)
    recipe = toy("cbyol").recipe
    assert (recipe.lr, recipe.weight_decay) == (0.35, 1e-6)
    assert math.isclose(recipe.warmup, 10 / 300)

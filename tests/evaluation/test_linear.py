"""The linear probe reaches scikit-learn's optimum and chooses its regularisation well."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from unlabel.evaluation.linear import FALLBACK, fit_linear, minimise


def blobs(n, classes=4, dim=12, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    centres = np.random.default_rng(7).normal(size=(classes, dim))
    features = centres[labels] + spread * rng.normal(size=(n, dim))
    return torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels)


def objective(x, y, weight, bias, strength):
    z = x.double().numpy() @ weight.T + bias
    z -= z.max(1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    return -log_p[np.arange(len(y)), y.numpy()].mean() + strength / 2 * (weight**2).sum()


@pytest.mark.parametrize("strength", [1.0, 0.1, 0.01, 0.001])
def test_reaches_the_objective_of_scikit_learn(strength):
    x, y = blobs(300)
    ours = minimise(x, y, 4, strength, iterations=1000).double().numpy()
    peer = LogisticRegression(C=1 / (300 * strength), tol=1e-10, max_iter=10_000)
    peer.fit(x.double().numpy(), y.numpy())
    best = objective(x, y, peer.coef_, peer.intercept_, strength)
    assert objective(x, y, ours[:, :-1], ours[:, -1], strength) == pytest.approx(best, abs=2e-6)


def test_a_start_changes_the_way_but_not_the_end():
    x, y = blobs(200)
    start = torch.randn(4, 13, generator=torch.Generator().manual_seed(0))
    a = minimise(x, y, 4, 0.1, iterations=1000)
    b = minimise(x, y, 4, 0.1, start=start, iterations=1000)
    # A number added to every bias changes no probability, so only their differences are determined.
    for solution in (a, b):
        solution[:, -1] -= solution[:, -1].mean()
    torch.testing.assert_close(a, b, atol=2e-2, rtol=0)


def test_standardisation_is_folded_into_the_weights():
    x, y = blobs(200)
    scale, shift = torch.logspace(-3, 3, 12), torch.linspace(-50, 50, 12)
    plain = fit_linear(x, y, 4, regularisations=[0.01])
    moved = fit_linear(x * scale + shift * scale, y, 4, regularisations=[0.01])
    test, _ = blobs(500, seed=1)
    agree = plain.predict(test) == moved.predict(test * scale + shift * scale)
    assert agree.float().mean() > 0.99


def test_a_constant_feature_does_no_harm():
    x, y = blobs(100)
    x[:, 3] = 5
    probe = fit_linear(x, y, 4)
    assert probe.weight.isfinite().all()
    assert probe.weight[:, 3].abs().max() < 1e-6


def test_regularisation_is_chosen_by_what_was_held_out():
    x, y = blobs(60, dim=200, spread=4.0)
    test, truth = blobs(3000, dim=200, spread=4.0, seed=1)
    chosen = fit_linear(x, y, 4)
    scores = {
        s: (fit_linear(x, y, 4, regularisations=[s]).predict(test) == truth).float().mean().item()
        for s in (10.0, 1.0, 0.1, 0.0001)
    }
    ours = (chosen.predict(test) == truth).float().mean().item()
    assert ours >= max(scores.values()) - 0.05
    assert ours > 0.35


def test_one_label_a_class_takes_the_fallback():
    x, y = blobs(4)
    assert fit_linear(x, y, 4).regularisation == FALLBACK


def test_many_labels_hold_out_one_part_alone_and_classes_may_be_missing():
    x, y = blobs(2400)
    probe = fit_linear(x, y, 6)
    assert probe.weight.shape == (6, 12)
    test, truth = blobs(500, seed=2)
    peer = LogisticRegression().fit(x.numpy(), y.numpy()).score(test.numpy(), truth.numpy())
    assert (probe.predict(test) == truth).float().mean() > peer - 0.01


def test_repeats_bit_for_bit():
    x, y = blobs(100)
    assert torch.equal(fit_linear(x, y, 4, seed=3).weight, fit_linear(x, y, 4, seed=3).weight)

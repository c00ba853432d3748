"""Fine-tuning and the SGD probe learn an easy set, and touch only what they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.layers import DropPath
from tiny_network import network
from torch import nn

from unlabel.config import ModelConfig, OptimConfig
from unlabel.data.images import Images
from unlabel.data.store import Store
from unlabel.evaluation import classifier as module
from unlabel.evaluation.classifier import Classifier, seeded
from unlabel.evaluation.finetune import (
    FinetuneConfig,
    finetune,
    set_drop_path,
)
from unlabel.evaluation.linear import LinearProbe
from unlabel.evaluation.linear_sgd import LinearSGDConfig, probe_sgd
from unlabel.training.optim import build_optimizer

PIXELS = {"mean": (0.2, 0.2, 0.2), "std": (0.3, 0.3, 0.3)}


@pytest.fixture(scope="module")
def halves(shapes_store):
    store = Store.open(shapes_store)
    return store.select(np.arange(0, 48)), store.select(np.arange(48, 96))


def accuracy(classifier, store):
    predicted = classifier.predict(Images(store, 16), "cpu")
    return (predicted.numpy() == store.labels).mean()


def test_training_from_scratch_learns_an_easy_set(halves):
    train, test = halves
    settings = FinetuneConfig(
        steps=150, batch_size=32, scratch_lr=8e-2, scale=(0.8, 1), flip=0, drop_path=0
    )
    trained = finetune(network(), train, settings, scratch=True, **PIXELS)
    assert accuracy(trained, train) > 0.9
    assert accuracy(trained, test) > 0.7


def test_repeats_bit_for_bit_and_leaves_the_generators_alone(halves):
    settings = FinetuneConfig(steps=3, batch_size=8, mixup=0.8, cutmix=1.0)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    a, b, c = (
        finetune(network(), halves[0], settings, seed=seed, **PIXELS).state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["head.weight"], c["head.weight"])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])


def test_the_head_starts_from_the_probe(halves):
    probe = LinearProbe(torch.randn(6, 32), torch.randn(6), 0.1)
    settings = FinetuneConfig(steps=1, batch_size=4, lr=1e-9)
    tuned = finetune(network(), halves[0], settings, probe=probe, **PIXELS)
    torch.testing.assert_close(tuned.head.weight, probe.weight, atol=1e-6, rtol=0)
    torch.testing.assert_close(tuned.head.bias, probe.bias, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["vit_nano", "resnet18", "swinv2_tiny_window8_256"])
def test_every_family_trains_and_all_its_weights_move(halves, name):
    size = 64 if name.startswith("swin") else 16
    model = ModelConfig(name=name, image_size=size, patch_size=None)
    backbone = network(model, 0)
    before = {name: p.clone() for name, p in backbone.named_parameters()}
    finetune(backbone, halves[0], FinetuneConfig(steps=2, batch_size=4, lr=0.1), **PIXELS)
    same = [name for name, p in backbone.named_parameters() if torch.equal(p, before[name])]
    assert not same


def test_a_classifier_learns_at_the_full_rate_above_blocks_that_do_not():
    classifier = Classifier(network(), 6, **PIXELS)
    groups = build_optimizer(classifier, OptimConfig(layer_decay=0.5)).param_groups
    rate = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    rates = {name: rate[id(p)] for name, p in classifier.named_parameters()}
    net = "backbone.net."
    assert rates["head.weight"] == rates["head.bias"] == rates[f"{net}norm.weight"] == 1
    assert rates[f"{net}blocks.1.attn.qkv.weight"] == 0.5
    assert rates[f"{net}patch_embed.proj.weight"] == rates[f"{net}pos_embed"] == 0.125


def test_the_budget_follows_its_rule():
    settings = FinetuneConfig(batch_size=64, epochs=50, min_steps=100, max_steps=1000)
    assert settings.budget(10) == (100, 32)
    assert settings.budget(33) == (100, 64)
    assert settings.budget(512) == (400, 64)
    assert settings.budget(100_000) == (1000, 64)
    assert FinetuneConfig(steps=7).budget(10)[0] == 7


@pytest.mark.parametrize("name", ["vit_nano", "resnet18"])
def test_drop_path_rises_to_its_rate_and_keeps_the_weights(name):
    backbone = network(ModelConfig(name=name, image_size=32), 0)
    names = set(backbone.state_dict())
    set_drop_path(backbone.net, 0.3)
    rates = [m.drop_prob for m in backbone.modules() if isinstance(m, DropPath)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.3)
    assert set(backbone.state_dict()) == names
    images = torch.randn(4, 3, 32, 32)
    assert backbone.train().embed(images).isfinite().all()
    set_drop_path(backbone.net, 0)
    assert not any(isinstance(m, DropPath) for m in backbone.modules())


def test_the_sgd_probe_learns(halves):
    train, test = halves
    settings = LinearSGDConfig(epochs=150, lr=3.0, scale=(0.8, 1))
    probe = probe_sgd(network(), train, settings, **PIXELS)
    assert accuracy(probe, train) > 0.5
    assert accuracy(probe, test) > 0.4


def test_the_sgd_probe_leaves_weights_and_statistics_alone(halves):
    backbone = network(ModelConfig(name="resnet18", image_size=16), 0)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    probe_sgd(backbone, halves[0], LinearSGDConfig(epochs=1), **PIXELS)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_the_sgd_probe_takes_the_published_steps(halves, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "unlabel.evaluation.linear_sgd.fit",
        lambda classifier, store, optimizer, optim, crops, **rest: seen.update(
            rest, group=optimizer.param_groups[0], optim=optim, crops=crops
        ),
    )
    probe_sgd(network(), halves[0], LinearSGDConfig(), **PIXELS)
    assert (seen["steps"], seen["batch_size"]) == (100, 48)
    assert (seen["optim"].lr, seen["optim"].warmup, seen["crops"].scale) == (0.3, 0, (0.08, 1))
    assert seen["group"]["nesterov"]
    assert (seen["group"]["momentum"], seen["group"]["weight_decay"]) == (0.9, 0)


def test_images_are_normalised_as_the_network_learnt_them(halves, monkeypatch):
    seen = []

    class Spy(nn.Module):
        grid = (1, 1)
        dim = 3

        def embed(self, images):
            seen.append(images.mean((0, 2, 3)))
            return images.mean((2, 3)) * self.weight

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

    spy = Classifier(Spy(), 6, mean=(0.0, 5.0, 9.0), std=(1.0, 1.0, 0.1))
    optimizer = torch.optim.SGD([{"params": list(spy.parameters()), "lr_scale": 1.0}], lr=0.1)
    module.fit(
        spy,
        halves[0],
        optimizer,
        OptimConfig(),
        module.Crops(16),
        steps=1,
        batch_size=8,
        seed=0,
        device="cpu",
    )
    spy.predict(Images(halves[1], 16), "cpu")
    for mean in seen:
        assert 0 < mean[0] < 1
        assert -5 < mean[1] < -4
        assert -90 < mean[2] < -80


def test_seeded_restores_after_an_error():
    state = torch.get_rng_state()

    @seeded(5)
    def fails():
        torch.rand(3)
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fails()
    assert torch.equal(torch.get_rng_state(), state)

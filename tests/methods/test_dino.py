from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lightly.loss import DINOLoss
from matching_toys import batch_for, shake, toy
from torch import Tensor

from contract import test_methods as contract
from unlabel.config import ModelConfig, PretrainConfig
from unlabel.data.spec import Batch
from unlabel.data.store import Store
from unlabel.errors import ConfigError
from unlabel.methods.base import Progress
from unlabel.methods.dino import DINO, DINOOptions, outputs, teacher_temperature
from unlabel.methods.parts.momentum import cosine_decay
from unlabel.training.setup import build

LATE = Progress(5, 10)


def dino(**options) -> DINO:
    """A toy whose teacher and centre are not at their start."""
    method = toy("dino", **({"bottleneck": 8, "small": 3, "small_size": 8} | options))
    shake(method.average.network)
    shake(method.views.teacher.network)
    method.views.centre.value.normal_(std=0.1)
    return method


def peer(method: DINO) -> DINOLoss:
    """Lightly's loss with the method's centre and temperatures."""
    loss = DINOLoss(16, warmup_teacher_temp_epochs=0)
    loss.center.copy_(method.views.centre.value)
    return loss


def logits_of(method: DINO, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """The teacher's of each large crop and the student's of each crop, one crop at a time."""
    crops = [crop for views in batch.views.values() for crop in views.unbind(1)]
    student = [method.views.head(method.backbone.embed(crop)) for crop in crops]
    with torch.no_grad():
        teacher = [
            method.views.teacher.network(method.average.network.embed(crop))
            for crop in crops[: method.options.large]
        ]
    return teacher, student


@pytest.mark.parametrize("small", [0, 3])
@pytest.mark.parametrize("large", [2, 3])
def test_loss_and_gradients_are_lightlys(large: int, small: int):
    method = dino(large=large, small=small)
    batch = batch_for(method)
    loss = method(batch, LATE).total
    expected = peer(method)(*logits_of(method, batch))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    parameters = [p for p in method.parameters() if p.requires_grad]
    ours, theirs = (torch.autograd.grad(value, parameters) for value in (loss, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_the_centre_moves_after_the_step_by_the_mean_of_all_micro_batches():
    method = dino()
    batch, other = batch_for(method, seed=1), batch_for(method, seed=2)
    before = method.views.centre.value.clone()
    teacher = torch.cat([torch.cat(logits_of(method, b)[0]) for b in (batch, other)])
    method.views.centre.train()
    for micro in (batch, other):
        method(micro, LATE)
    assert torch.equal(method.views.centre.value, before)
    method.after_step(LATE)
    expected = 0.9 * before + 0.1 * teacher.mean(0)
    torch.testing.assert_close(method.views.centre.value, expected, rtol=1e-4, atol=1e-5)
    after = method.views.centre.value.clone()
    method.after_step(LATE)
    assert torch.equal(method.views.centre.value, after)


def test_the_teacher_follows_backbone_and_head_and_is_what_is_exported():
    method = dino(decay=0.95)
    assert method.exported is method.average.network
    pairs = [(method.average.network, method.backbone)]
    pairs.append((method.views.teacher.network, method.views.head))
    before = [[p.clone() for p in teacher.parameters()] for teacher, _ in pairs]
    progress = Progress(300, 10_000)
    method.after_step(progress)
    decay = cosine_decay(0.95, progress)
    for start, (teacher, student) in zip(before, pairs, strict=True):
        for old, new, follows in zip(
            start, teacher.parameters(), student.parameters(), strict=True
        ):
            torch.testing.assert_close(new, decay * old + (1 - decay) * follows)


def test_no_gradient_reaches_the_teacher():
    method = dino().train()
    method(batch_for(method), LATE).total.backward()
    teachers = [*method.average.parameters(), *method.views.teacher.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in teachers)


def test_the_last_layer_is_held_for_the_first_epoch_of_a_hundred():
    method = dino()
    moved = []
    for step in (0, 9, 10, 999):
        method.zero_grad()
        method(batch_for(method), Progress(step, 1000)).total.backward()
        moved.append(method.views.head.directions.grad.any().item())
    assert moved == [False, False, True, True]


def test_the_teachers_temperature_is_that_of_dinos_code():
    options = DINOOptions(teacher_temperature=0.07, temperature_warmup=30 / 300)
    expected = np.concatenate([np.linspace(0.04, 0.07, 31), np.full(269, 0.07)])
    ours = [teacher_temperature(options, Progress(epoch, 300)) for epoch in range(300)]
    np.testing.assert_allclose(ours, expected)
    flat = DINOOptions(temperature_warmup=0)
    assert teacher_temperature(flat, Progress(0, 10)) == 0.04


def test_defaults_are_the_published_ones():
    options = DINOOptions()
    assert (options.large, options.small) == (2, 8)
    assert (options.scale, options.small_scale) == ((0.4, 1.0), (0.05, 0.4))
    assert (options.student_temperature, options.teacher_temperature) == (0.1, 0.04)
    assert (options.hidden, options.bottleneck, options.decay) == (2048, 256, 0.996)
    recipe = DINO.recipe
    assert (recipe.optimizer, recipe.lr, recipe.clip_grad) == ("adamw", 5e-4, 3.0)
    assert (recipe.weight_decay, recipe.weight_decay_end) == (0.04, 0.4)


def test_small_sets_have_fewer_outputs():
    assert outputs(1_281_167) == outputs(1_000_000) == 65_536
    assert outputs(500_000) == 32_768
    assert outputs(50_000) == outputs(10) == 4_096


def test_collapse_shows_in_the_teachers_entropy():
    method = dino()
    batch = batch_for(method)
    healthy = method(batch, LATE).scalars["teacher_entropy"]
    method.views.centre.value.zero_()
    with torch.no_grad():
        method.views.teacher.network.lengths.zero_()
    flat = method(batch, LATE).scalars["teacher_entropy"]
    assert healthy < flat
    torch.testing.assert_close(flat, torch.tensor(16.0).log())


def test_an_average_of_ones_own_is_refused(shapes_store: Path):
    config = PretrainConfig(
        data=shapes_store,
        method="dino",
        options={"out": 16},
        model=ModelConfig(name="resnet18", image_size=16),
        average=0.99,
    )
    with pytest.raises(ConfigError, match=r"average 0\.99: dino exports its teacher"):
        build(config, Store.open(shapes_store))


@pytest.mark.parametrize("model", ["vit", "swin", "resnet"])
def test_every_family_of_backbones_learns(model: str):
    method = contract.build("dino", model, small=2)
    losses = contract.take_steps(method, contract.batch_for(method, 4), 8, follow=False)
    assert losses[-1] < losses[0]

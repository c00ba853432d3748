"""What every registered method must do; a new one is tested by being there."""

from __future__ import annotations

import copy
import math
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig
from unlabel.data.masks import draw_masks
from unlabel.data.spec import Batch
from unlabel.errors import UnlabelError
from unlabel.export import export_backbone
from unlabel.methods.base import DataInfo, Losses, Method, Progress
from unlabel.methods.dnc import BASE, GROUPS, expert
from unlabel.methods.registry import build_method, methods

MODELS = {
    "vit": ModelConfig(
        name="vit_nano",
        image_size=24,
        patch_size=4,
        arguments={"embed_dim": 48, "depth": 2, "num_heads": 2},
    ),
    "swin": ModelConfig(
        name="swinv2_s",
        image_size=32,
        patch_size=4,
        arguments={"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4},
    ),
    "resnet": ModelConfig(name="resnet18", image_size=32),
}
SMALL = {
    "vocabulary": 64,
    "tokenizer": "k-means",
    "hidden": 32,
    "out": 16,
    "critic": (32,),
    "prototypes": 16,
    "bottleneck": 16,
}
"""Values for options that would make a toy slow, used where a method has them."""
CLASSES = 3


def build(name: str, model: str = "vit", channels: int = 3, **options) -> Method:
    given = small_options(name, channels) | options
    torch.manual_seed(0)
    config = MODELS[model].model_copy(update={"in_chans": channels})
    config = ModelConfig(**config.model_dump())
    data = DataInfo(64, CLASSES, mean=(0.5,) * channels, std=(0.25,) * channels, segments=True)
    method = build_method(name, build_backbone(config), given, data)
    size, group = config.image_size, next(iter(method.spec.crops))
    method.prepare(toy_images(16, method.spec.crops[group].size, channels))
    assert size == method.backbone.image_size
    return method.train()


def small_options(name: str, channels: int = 3) -> dict[str, Any]:
    """Values for the method's options."""
    known = methods()[name].Options.model_fields
    stages = {"stages": toy_stages(channels).name} if "stages" in known else {}
    return {k: v for k, v in SMALL.items() if k in known} | stages


@cache
def toy_stages(channels: int) -> TemporaryDirectory:
    """A base and two experts for DnC, untrained, that take images of any size."""
    folder = TemporaryDirectory()
    small = {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}
    model = ModelConfig(name="resnet18", image_size=32, in_chans=channels, arguments=small)
    for seed, stage in enumerate((BASE, expert(0), expert(1))):
        torch.manual_seed(seed)
        half, export = (0.5,) * channels, Path(folder.name) / stage / "export"
        export_backbone(build_backbone(model), export, mean=half, std=half, notes={})
    np.save(Path(folder.name) / GROUPS, np.arange(1024) % 2)
    return folder


def served(name: str) -> str:
    """The first of the model families that can train with the method."""
    for model, config in MODELS.items():
        if methods()[name].needs <= type(build_backbone(config)).serves:
            return model
    raise AssertionError(f"no family serves {name}")


def toy_images(count: int, size: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """Smooth random waves, normalised: something to learn, of three kinds."""
    generator = torch.Generator().manual_seed(seed)
    at = torch.linspace(0, 1, size)
    kind = torch.arange(count) % CLASSES + 1
    phase = torch.rand(count, channels, 1, 1, generator=generator)
    wave = torch.sin(6.3 * (kind[:, None, None, None] * at[:, None] + at * 2 + phase))
    return wave + 0.1 * torch.randn(count, channels, size, size, generator=generator)


def batch_for(method: Method, images: int = 8, seed: int = 0) -> Batch:
    channels = method.backbone.in_chans
    views = {
        group: torch.stack(
            [toy_images(images, crops.size, channels, seed + v) for v in range(crops.count)], 1
        )
        for group, crops in method.spec.crops.items()
    }
    key = np.arange(images, dtype=np.uint64) + np.uint64(seed * 1000)
    masks = {g: torch.from_numpy(draw_masks(spec, key)) for g, spec in method.spec.masks.items()}
    ids = torch.arange(images)
    segments = {
        group: torch.randint(0, 3, (images, crops.count, *(crops.segments,) * 2), dtype=torch.uint8)
        for group, crops in method.spec.crops.items()
        if crops.segments
    }
    return Batch(views, masks, ids, labels=ids % CLASSES, segments=segments)


def gradients(method: Method, batch: Batch) -> list[torch.Tensor]:
    """Of the first step's loss, by every parameter that has one."""
    torch.manual_seed(0)
    method.zero_grad()
    method(batch, Progress(0, 10)).total.backward()
    return [p.grad.clone() for p in method.parameters() if p.grad is not None]


def take_steps(
    method: Method, batch: Batch, steps: int, lr: float = 2e-3, follow: bool = True
) -> list[float]:
    """Losses of so many updates; targets stay as they are unless they are to ``follow``."""
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=lr)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        progress = Progress(step, steps)
        total = method(batch, progress).total
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        if follow:
            method.after_step(progress)
        losses.append(total.detach())
    return torch.stack(losses).tolist()


@pytest.fixture(params=sorted(methods()))
def name(request) -> str:
    return request.param


def test_the_class_says_what_it_is(name):
    method = methods()[name]
    assert method.name == name
    assert method.__doc__
    assert method.Options().model_dump() is not None
    assert method.needs <= {"visible", "mask"}
    assert method.recipe.lr > 0


def test_the_spec_is_one_that_batches_can_be_drawn_for(name):
    method = build(name, served(name))
    assert method.spec.crops
    assert set(method.spec.masks) <= set(method.spec.crops)
    for spec in method.spec.masks.values():
        seen = torch.from_numpy(draw_masks(spec, np.arange(4, dtype=np.uint64)))
        assert seen.shape == (4, len(spec.visible), spec.patches)
        assert (seen.sum(1) <= 1).all()


def test_twenty_steps_lower_a_finite_loss(name):
    """Targets without a scale of their own stand still, or a lower loss would say nothing."""
    method = build(name, served(name))
    losses = take_steps(method, batch_for(method), 20, follow=not method.target_moves)
    assert all(math.isfinite(loss) for loss in losses)
    assert min(losses[-3:]) < losses[0]


def test_the_same_seed_gives_the_same_bits(name):
    runs = []
    for _ in range(2):
        method = build(name, served(name))
        runs.append((take_steps(method, batch_for(method), 3), method.state_dict()))
    assert runs[0][0] == runs[1][0]
    assert runs[0][1].keys() == runs[1][1].keys()
    assert all(torch.equal(value, runs[1][1][key]) for key, value in runs[0][1].items())


def test_gradients_are_the_same_bits_with_several_threads(name):
    """In batches large enough for torch to use them; resuming bit for bit stands on this."""
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        wide = {"out": 64} if "out" in methods()[name].Options.model_fields else {}
        method = build(name, served(name), **wide)
        batch = batch_for(method, 256)
        runs = [gradients(method, batch) for _ in range(3)]
    finally:
        torch.set_num_threads(threads)
    assert all(
        torch.equal(one, other) for run in runs[1:] for one, other in zip(runs[0], run, strict=True)
    )


def test_a_state_dict_brings_back_the_same_losses(name):
    method = build(name, served(name))
    batch = batch_for(method)
    take_steps(method, batch, 2)
    saved = copy.deepcopy(method.state_dict())
    torch.manual_seed(99)
    other = build(name, served(name))
    take_steps(other, batch_for(other, seed=5), 1)
    other.load_state_dict(saved)
    assert take_steps(other, batch, 3) == take_steps(method, batch, 3)


def after_steps(name: str, steps: int, count: int = 3) -> list[torch.Tensor]:
    """Losses, and every weight and buffer, of the first updates of a run of ``steps``."""
    method = build(name, served(name))
    batch = batch_for(method)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for step in range(count):
        torch.manual_seed(step)
        total = method(batch, Progress(step, steps)).total
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        method.after_step(Progress(step, steps))
        losses.append(total.detach())
    return [*losses, *method.state_dict().values()]


def test_a_method_without_a_horizon_begins_alike_whatever_the_length(name):
    """And one that says it has a horizon does not: it is what a study may share by."""
    short, long = (after_steps(name, steps) for steps in (4, 4000))
    same = all(torch.equal(one, other) for one, other in zip(short, long, strict=True))
    assert same != methods()[name].horizon


def test_losses_and_scalars_are_numbers_and_scalars_carry_no_graph(name):
    method = build(name, served(name))
    losses = method(batch_for(method), Progress(0, 10))
    assert isinstance(losses, Losses)
    assert losses.total.shape == ()
    assert losses.total.requires_grad
    for scalar in losses.scalars.values():
        assert scalar.shape == ()
        assert not scalar.requires_grad
        assert torch.isfinite(scalar)


@pytest.mark.parametrize("images", [1, 3])
def test_a_batch_of_any_size_works(name, images):
    method = build(name, served(name))
    losses = method(batch_for(method, images), Progress(0, 10))
    losses.total.backward()
    assert torch.isfinite(losses.total)


@pytest.mark.parametrize(("size", "patch"), [(20, 4), (28, 4), (32, 16), (16, 16)])
def test_sizes_work_or_are_refused_with_a_reason(name, size, patch):
    """Grids of 5 x 5, 7 x 7, 2 x 2 and of a single patch."""
    given = small_options(name)
    torch.manual_seed(0)
    model = MODELS["vit"].model_copy(update={"image_size": size, "patch_size": patch})
    backbone = build_backbone(model)
    if not methods()[name].needs <= backbone.serves:
        pytest.skip("for another family of backbones")
    data = DataInfo(64, CLASSES, mean=(0.5,) * 3, std=(0.25,) * 3, segments=True)
    try:
        method = build_method(name, backbone, given, data)
        method.prepare(toy_images(16, size))
    except UnlabelError as error:
        reason = str(error)
    else:
        reason = ""
        total = method(batch_for(method, 4), Progress(0, 10)).total
        total.backward()
        assert torch.isfinite(total)
    assert not reason or str(size // patch) in reason or "patch" in reason


@pytest.mark.parametrize("channels", [1, 5])
def test_images_need_not_have_three_channels(name, channels):
    method = build(name, served(name), channels)
    total = method(batch_for(method, 4), Progress(0, 10)).total
    total.backward()
    assert torch.isfinite(total)


def test_autocast_to_bfloat16_changes_the_loss_a_little(name):
    method = build(name, served(name)).eval()
    batch = batch_for(method)
    torch.manual_seed(0)
    exact = method(batch, Progress(0, 10)).total
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        rough = method(batch, Progress(0, 10)).total
    rough.backward()
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_every_trained_parameter_gets_a_gradient(name):
    """Otherwise training over several processes stops, and memory is wasted."""
    method = build(name, served(name))
    method(batch_for(method), Progress(0, 10)).total.backward()
    left = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
    # A class token is not needed by whatever pools the patches alone.
    assert [n for n in left if "cls_token" not in n] == []


def test_held_out_loss_leaves_no_trace(name):
    method = build(name, served(name)).eval()
    before = copy.deepcopy(method.state_dict())
    loss = method.validation_loss(batch_for(method), Progress(0, 10))
    assert not loss.requires_grad
    after = method.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_exempt_parameters_exist(name):
    method = build(name, served(name))
    known = dict(method.named_parameters())
    assert method.no_weight_decay() <= set(known)

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matching_toys import batch_for, shake, toy
from torch import nn

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig
from unlabel.data.spec import Batch
from unlabel.errors import ConfigError
from unlabel.methods.base import DataInfo, Progress
from unlabel.methods.detcon import DetConOptions, contrast_segments
from unlabel.methods.parts.invariance import unit
from unlabel.methods.parts.segments import pool, sample_ids
from unlabel.methods.registry import build_method

RGB = ((0.5,) * 3, (0.25,) * 3)


def loops(p, other, same, ids, other_ids, tau):
    """Float64: one sampled segment after the other, from the description."""
    images, segments = len(ids), len(ids[0])
    total = 0.0
    for i in range(images):
        for m in range(segments):
            candidates, answers = [], []
            for j in range(images):
                for n in range(segments):
                    is_answer = i == j and other_ids[j][n] == ids[i][m]
                    candidates.append(float(p[i][m] @ other[j][n]) / tau)
                    answers.append(is_answer)
            for j in range(images):
                for n in range(segments):
                    if not (i == j and ids[j][n] == ids[i][m]):
                        candidates.append(float(p[i][m] @ same[j][n]) / tau)
                        answers.append(False)
            if not any(answers):
                continue
            log_total = math.log(sum(math.exp(c) for c in candidates))
            found = [c - log_total for c, yes in zip(candidates, answers, strict=True) if yes]
            multiplicity = sum(ids[i][n] == ids[i][m] for n in range(segments))
            total -= sum(found) / len(found) / multiplicity
    return total / (images * segments)


@pytest.mark.parametrize(
    ("ids", "other_ids"),
    [
        ([[1, 2, 2], [5, 5, 5]], [[2, 2, 1], [5, 5, 5]]),  # several times, and a single segment
        ([[1, 2, 3], [4, 4, 6]], [[9, 9, 3], [7, 7, 7]]),  # absent in the other view
        ([[0, 0, 0]], [[0, 0, 0]]),  # one image of one segment: nothing to tell it from
    ],
)
def test_the_loss_against_float64_loops(ids, other_ids):
    torch.manual_seed(0)
    p, other, same = (unit(torch.randn(len(ids) * 3, 5)).view(-1, 3, 5) for _ in range(3))
    p.requires_grad_()
    ours = contrast_segments(p, other, same, torch.tensor(ids), torch.tensor(other_ids), 0.1)
    expected = loops(p.detach().double(), other.double(), same.double(), ids, other_ids, 0.1)
    assert ours.item() == pytest.approx(expected, abs=1e-5)
    ours.backward()
    assert torch.isfinite(p.grad).all()
    unmatched = [[i not in there for i in row] for row, there in zip(ids, other_ids, strict=True)]
    assert (p.grad[torch.tensor(unmatched)] == 0).all()
    assert (p.grad[~torch.tensor(unmatched)] != 0).any(-1).all()


@given(st.lists(st.lists(st.integers(0, 255), min_size=4, max_size=4), min_size=1, max_size=5))
def test_only_segments_that_are_there_are_sampled(rows):
    grid = torch.tensor(rows, dtype=torch.uint8).view(-1, 2, 2)
    drawn = sample_ids(grid, 16, seed=1)
    assert drawn.shape == (len(rows), 16)
    assert all(set(found) <= set(row) for found, row in zip(drawn.tolist(), rows, strict=True))


def test_segments_are_sampled_uniformly_whatever_their_size():
    grid = torch.tensor([[7, 7, 7, 9]], dtype=torch.uint8).view(1, 2, 2).expand(4000, 2, 2)
    assert (sample_ids(grid, 1, seed=0) == 9).float().mean() == pytest.approx(0.5, abs=0.03)


def test_a_process_draws_its_part_of_the_whole(monkeypatch):
    grid = torch.randint(0, 9, (6, 3, 3), dtype=torch.uint8)
    whole = sample_ids(grid, 4, seed=5)
    monkeypatch.setattr("unlabel.methods.parts.segments.processes", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr("unlabel.methods.parts.segments.rank", lambda rank=rank: rank)
        part = slice(3 * rank, 3 * rank + 3)
        assert torch.equal(sample_ids(grid[part], 4, seed=5), whole[part])


def test_features_are_averaged_over_the_segment():
    maps = torch.arange(8.0).view(1, 2, 2, 2)
    grid = torch.tensor([[[3, 3], [1, 3]]], dtype=torch.uint8)
    found = pool(maps, grid, torch.tensor([[3, 1]]))
    torch.testing.assert_close(found, torch.tensor([[[4 / 3, 16 / 3], [2.0, 6.0]]]))


def build(segments: bool = True, **options):
    torch.manual_seed(0)
    backbone = build_backbone(ModelConfig(name="resnet18", image_size=32, enlarge=2))
    data = DataInfo(64, 0, *RGB, segments=segments)
    return build_method("detcon", backbone, {"hidden": 16, "out": 8} | options, data)


def test_the_method_is_both_directions_added():
    method = build().eval()
    nn.init.normal_(method.target.network.projector[0].weight)
    torch.manual_seed(1)
    views = {name: torch.randn(3, 1, 3, 32, 32) for name in method.spec.crops}
    side = method.backbone.grid[0]
    grids = {name: torch.randint(0, 3, (3, 1, side, side), dtype=torch.uint8) for name in views}
    batch = Batch(views, {}, torch.arange(3), segments=grids)
    with torch.no_grad():
        ours = method(batch, Progress(5, 10)).total
        ids, p, t = [], [], []
        for view, name in enumerate(views):
            grid, crop = grids[name][:, 0], views[name][:, 0]
            ids.append(sample_ids(grid, 16, seed=view))  # held-out images: step 0
            online = pool(method.backbone.feature_map(crop), grid, ids[-1])
            p.append(unit(method.predictor(method.projector(online.flatten(0, 1)))))
            net = method.target.network
            pooled = pool(net.backbone.feature_map(crop), grid, ids[-1])
            t.append(unit(net.projector(pooled.flatten(0, 1))))
        p, t = ([x.view(3, 16, 8).double() for x in xs] for xs in (p, t))
        expected = sum(
            loops(p[a], t[b], t[a], ids[a].tolist(), ids[b].tolist(), 0.1)
            for a, b in ((0, 1), (1, 0))
        )
    assert ours.item() == pytest.approx(expected, abs=1e-4)


def test_a_store_without_segments_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match="--segments felzenszwalb"):
        build(segments=False)


def test_segments_are_drawn_anew_each_step_but_not_for_held_out_images():
    method = toy("detcon").train()
    batch = batch_for(method)
    steps = [Progress(step, 10) for step in (0, 3)]
    assert len({method(batch, progress).total.item() for progress in steps}) == 2
    method.eval()
    assert len({method.validation_loss(batch, progress).item() for progress in steps}) == 1


def test_the_target_gets_no_gradient_and_follows_with_statistics_of_its_own():
    method = toy("detcon", decay=0.95).train()
    target = method.target.network
    shake(target)
    before = [p.clone() for p in target.parameters()]
    online = [*method.backbone.parameters(), *method.projector.parameters()]
    method(batch_for(method), Progress(0, 10)).total.backward()
    assert all(p.grad is None for p in target.parameters())
    statistics = [b.clone() for b in target.buffers()]
    method.after_step(Progress(0, 10_000))
    for old, new, follows in zip(before, target.parameters(), online, strict=True):
        torch.testing.assert_close(new, 0.95 * old + 0.05 * follows)
    assert all(torch.equal(old, new) for old, new in zip(statistics, target.buffers(), strict=True))


def test_defaults_are_the_released_ones_and_segments_lie_on_the_map():
    options = DetConOptions()
    assert (options.segments, options.hidden, options.out) == (16, 4096, 256)
    assert (options.temperature, options.decay, options.colours) == (0.1, 0.996, "byol")
    method = toy("detcon")
    recipe = method.recipe
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.warmup) == (
        "lars",
        0.2,
        1.5e-6,
        0.01,
    )
    sides = {crops.segments for crops in method.spec.crops.values()}
    assert sides == set(method.backbone.grid)

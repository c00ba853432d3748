from __future__ import annotations

import pytest
import torch
from torch import nn

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig
from unlabel.data.spec import Batch
from unlabel.errors import ConfigError
from unlabel.methods.base import DataInfo, Progress
from unlabel.methods.registry import build_method

RGB = ((0.5,) * 3, (0.25,) * 3)


def build(name: str, foreground: bool = False, **options):
    torch.manual_seed(0)
    backbone = build_backbone(ModelConfig(name="resnet18", image_size=16))
    data = DataInfo(64, 0, *RGB, foreground=foreground)
    return build_method(name, backbone, {"out": 8} | options, data)


def batch_for(method, images: int = 5) -> Batch:
    torch.manual_seed(1)
    views = {
        name: torch.randn(images, crops.count, 3, crops.size, crops.size)
        for name, crops in method.spec.crops.items()
    }
    return Batch(views, {}, torch.arange(images))


def likelihoods(a, b, candidates, tau):
    """Float64 softmax of cosine / tau of each row of ``a`` over candidates among ``b``."""
    a, b = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (a, b))
    rows = [(a[i] @ b[c].T / tau).softmax(0) for i, c in enumerate(candidates)]
    return torch.stack(rows)


def kl(p, q):
    return (p * (p / q).log()).sum(1).mean()


def encode(method, crop, target=False):
    """Comparison net on backbone, on one crop alone, in evaluation mode."""
    net = method.target.network if target else method
    return net.projector(net.backbone.embed(crop))


@torch.no_grad()
def test_relic_is_contrast_over_the_batch_and_the_divergence_of_both_directions():
    method = build("relic", critic=(32,), invariance=0.7).eval()
    nn.init.normal_(method.target.network.projector[0].weight)  # target and online now differ
    batch = batch_for(method)
    first, second = (views[:, 0] for views in batch.views.values())
    everyone = [[i, *(j for j in range(5) if j != i)] for i in range(5)]
    p = likelihoods(encode(method, first), encode(method, second, True), everyone, 0.2)
    q = likelihoods(encode(method, second), encode(method, first, True), everyone, 0.2)
    # q is over the same candidates, seen the other way round.
    contrast = -(p[:, 0].log().mean() + q[:, 0].log().mean()) / 2
    expected = contrast + 0.7 * (kl(p, q) + kl(q, p)) / 2
    assert method(batch, Progress(0, 10)).total.item() == pytest.approx(expected.item(), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("swap", ["anchor", "views"])
@pytest.mark.parametrize("same_view", [True, False])
def test_relicv2_is_the_mean_over_pairs_of_crops(swap, same_view):
    options = {"hidden": 32, "large": 2, "small": 1, "negatives": 4, "swap": swap}
    method = build("relicv2", same_view=same_view, contrast=0.5, invariance=2.0, **options).eval()
    nn.init.normal_(method.target.network.projector[0].weight)
    batch = batch_for(method)
    large = [view[:, 0] for name, view in batch.views.items() if name != "small"]
    crops = [*large, batch.views["small"][:, 0]]
    online = [encode(method, crop) for crop in crops]
    target = [encode(method, crop, True) for crop in large]
    everyone = [[i, *(j for j in range(5) if j != i)] for i in range(5)]  # 4 negatives: all others
    terms = []
    for i, a in enumerate(online):
        for j, b in enumerate(target):
            if i == j and not same_view:
                continue
            p = likelihoods(a, b, everyone, 0.2)
            if swap == "views" and i < 2 and i != j:
                q = likelihoods(online[j], target[i], everyone, 0.2)
            else:
                q = likelihoods(b, a, everyone, 0.2)
            terms.append(-0.5 * p[:, 0].log().mean() + 2.0 * kl(p, q))
    assert len(terms) == (6 if same_view else 4)
    expected = sum(terms) / len(terms)
    assert method(batch, Progress(0, 10)).total.item() == pytest.approx(expected.item(), abs=1e-5)


def test_relicv2_draws_other_negatives_each_step_but_not_for_held_out_images():
    method = build("relicv2", hidden=32, negatives=2, large=2, small=0)
    batch = batch_for(method, 16)
    train = {method(batch, Progress(step, 10)).total.item() for step in (0, 3)}
    method.eval()
    held = {method.validation_loss(batch, Progress(step, 10)).item() for step in (0, 3)}
    assert (len(train), len(held)) == (2, 1)


def test_backgrounds_are_removed_from_large_crops_where_there_are_masks():
    def coins(**settings):
        method = build("relicv2", hidden=32, **settings)
        return {name: crops.background for name, crops in method.spec.crops.items()}

    assert set(coins().values()) == {None}
    found = coins(foreground=True, fill="mean")
    assert found["small"] is None
    assert {(b.p, b.fill) for name, b in found.items() if name != "small"} == {(0.1, "mean")}
    with pytest.raises(ConfigError, match="unlabel saliency"):
        coins(background=0.5)


def test_a_critic_without_width_is_refused():
    with pytest.raises(ConfigError, match="critic"):
        build("relic", critic=(32, 0))


def test_published_crops():
    spec = build("relicv2", hidden=32).spec.crops
    large = [crops for name, crops in spec.items() if name != "small"]
    assert sum(crops.count for crops in large) == 4
    assert spec["small"].count == 2
    assert spec["small"].scale == (0.05, 0.14)


def test_the_target_follows():
    method = build("relicv2", hidden=32, decay=0.996)
    before = method.target.network.projector[0].weight.clone()
    nn.init.normal_(method.projector[0].weight)
    online = method.projector[0].weight.detach().clone()
    method.after_step(Progress(0, 1_000_000))
    after = method.target.network.projector[0].weight
    torch.testing.assert_close(after, 0.996 * before + 0.004 * online)

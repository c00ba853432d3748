from __future__ import annotations

import pytest
import torch
from matching_toys import batch_for, float64_directions, shake, toy
from torch import Tensor

from contract import test_methods as contract
from unlabel.config import ModelConfig
from unlabel.data.spec import Batch
from unlabel.methods.base import Progress
from unlabel.methods.dino import DINO, teacher_temperature
from unlabel.methods.esvit import EsViT, EsViTOptions
from unlabel.methods.parts.regions import best_match, match_regions

LATE = Progress(5, 10)
RESNET = ModelConfig(name="resnet18", image_size=32, arguments={"layers": (1, 1, 1, 1)})
VIT = ModelConfig(
    name="vit_nano",
    image_size=24,
    patch_size=8,
    arguments={"embed_dim": 32, "depth": 2, "num_heads": 2},
)


def esvit(model: ModelConfig = VIT, **options) -> EsViT:
    """A toy whose teachers and centres are not at their start."""
    small = {"bottleneck": 8, "small": 2, "small_size": 16} | options
    method = toy("esvit", model, **small)
    networks = (method.average, method.views.teacher, method.regions.teacher)
    for network in networks:
        shake(network.network)
    method.views.centre.value.normal_(std=0.1)
    method.regions.centre.value.normal_(std=0.1)
    return method


def region_loss(method: EsViT, batch: Batch) -> float:
    """Equation 4 of the paper, region by region, in double precision from the logits on."""
    crops = [crop for views in batch.views.values() for crop in views.unbind(1)]
    teachers, tau = method.options.large, teacher_temperature(method.options, LATE)
    terms: list[Tensor] = []
    for t in range(teachers):
        for s in range(len(crops)):
            if s == t:
                continue
            pairs = zip(crops[s].split(1), crops[t].split(1), strict=True)
            terms += [_pair(method, crop, other, tau) for crop, other in pairs]
    return torch.stack(terms).mean().item()


def _pair(method: EsViT, crop: Tensor, other: Tensor, tau: float) -> Tensor:
    """The mean over the regions of one image's crop."""
    ours = method.backbone.feature_map(crop)[0].flatten(1).T
    theirs = method.average.network.feature_map(other)[0].flatten(1).T
    cosines = float64_directions(ours) @ float64_directions(theirs).T
    terms = []
    for region, similar in zip(ours, cosines, strict=True):
        match = theirs[max(range(len(similar)), key=lambda j: similar[j].item())]
        said = method.regions.teacher.network(match[None])[0] - method.regions.centre.value
        p = torch.exp(said.double() / tau)
        q = method.regions.head(region[None])[0].double() / 0.1
        terms.append(-(p / p.sum() * (q - torch.log(torch.exp(q).sum()))).sum())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("model", [VIT, RESNET], ids=["vit", "resnet"])
@torch.no_grad()
def test_the_region_loss_is_a_float64_loop(model: ModelConfig):
    method = esvit(model, region_weight=1.0)
    batch = batch_for(method, images=2)
    assert method(batch, LATE).total.item() == pytest.approx(region_loss(method, batch), rel=1e-4)


@torch.no_grad()
def test_the_view_loss_is_dinos_and_both_are_weighted():
    batch = batch_for(esvit())
    views, regions, both, most = (
        esvit(region_weight=weight)(batch, LATE).total for weight in (0, 1, 0.5, 0.8)
    )
    torch.testing.assert_close(both, (views + regions) / 2)
    torch.testing.assert_close(most, 0.2 * views + 0.8 * regions)
    method = esvit()
    torch.testing.assert_close(views, DINO.forward(method, batch, LATE).total)
    assert EsViTOptions().region_weight == 0.5


def test_best_matches_are_found_where_they_were_hidden():
    torch.manual_seed(0)
    others = torch.randn(3, 9, 8)
    hidden = torch.stack([torch.randperm(9)[:5] for _ in range(3)])
    regions = torch.stack([3 * o[h] for o, h in zip(others, hidden, strict=True)])
    regions += 0.01 * torch.randn_like(regions)
    assert torch.equal(best_match(regions, others), hidden)


def test_a_student_that_says_what_its_match_says_has_the_entropy_as_its_loss():
    torch.manual_seed(0)
    said = torch.randn(2, 6, 10)
    seen = torch.randn(2, 6, 4)
    entropy = torch.distributions.Categorical(logits=said).entropy().mean()
    loss = match_regions(0.1 * said, seen, [(seen, said.softmax(2))], 0.1)
    torch.testing.assert_close(loss, entropy)


def test_regions_have_a_head_and_a_centre_of_their_own_that_move_after_the_step():
    method = esvit(decay=0.95).train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method(batch_for(method), LATE)
    untouched = [k for k, v in method.state_dict().items() if torch.equal(v, before[k])]
    assert set(untouched) == set(before)
    with torch.no_grad():
        for parameter in method.regions.head.parameters():
            parameter += 1
    method.after_step(LATE)
    moved = {k for k, v in method.state_dict().items() if not torch.equal(v, before[k])}
    assert {"regions.centre.value", "views.centre.value"} <= moved
    assert {
        f"regions.teacher.network.{n}" for n, _ in method.regions.head.named_parameters()
    } < moved


def test_the_last_layers_are_held_for_the_first_epoch_of_300():
    method = esvit()
    moved = []
    for step in (0, 2, 3):
        method.zero_grad()
        method(batch_for(method), Progress(step, 900)).total.backward()
        heads = (method.views.head, method.regions.head)
        moved.append([p.grad.any().item() for h in heads for p in (h.directions, h.lengths)])
    assert moved == [[False] * 4, [False] * 4, [True] * 4]


def test_the_held_out_loss_does_not_depend_on_how_many_are_looked_at_together():
    method = esvit()
    batch = batch_for(method, images=40)
    with torch.no_grad():
        whole = method(batch, LATE).total
    torch.testing.assert_close(method.validation_loss(batch, LATE), whole)


def test_defaults_are_those_of_the_published_300_epochs():
    options = EsViTOptions()
    assert (options.teacher_temperature_start, options.teacher_temperature) == (0.04, 0.07)
    assert options.temperature_warmup == pytest.approx(30 / 300)
    assert not options.norm_last_layer
    assert (options.large, options.small) == (2, 8)
    assert EsViT.recipe.warmup == pytest.approx(10 / 300)
    assert EsViT.recipe.lr == DINO.recipe.lr


@pytest.mark.parametrize("model", ["vit", "swin", "resnet"])
def test_every_family_of_backbones_learns(model: str):
    method = contract.build("esvit", model, small=2, teacher_temperature=0.04)
    losses = contract.take_steps(method, contract.batch_for(method, 4), 8, follow=False)
    assert losses[-1] < losses[0]

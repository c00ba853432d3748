from __future__ import annotations

import numpy as np
import pytest
import torch

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig
from unlabel.data.masks import draw_masks
from unlabel.data.random import keys
from unlabel.data.spec import Batch
from unlabel.errors import ConfigError
from unlabel.methods.base import DataInfo, Progress
from unlabel.methods.parts.decoder import InpaintingDecoder
from unlabel.methods.parts.positions import seen_first, sincos_2d
from unlabel.methods.splitmask import SplitMask, SplitMaskOptions

DATA = DataInfo(images=8, classes=0, mean=(0.5,) * 3, std=(0.25,) * 3)
TINY = {"embed_dim": 48, "depth": 3, "num_heads": 3}
START = Progress(0, 10)
SMALL_SETS = {"split": "random", "visible": (0.25, 0.75)}


def splitmask(size: int = 32, **options) -> SplitMask:
    torch.manual_seed(0)
    model = ModelConfig(name="vit_tiny_patch16_224", image_size=size, patch_size=8, arguments=TINY)
    return SplitMask(build_backbone(model), SplitMaskOptions(**{"vocabulary": 64} | options), DATA)


def batch_for(method: SplitMask, images: int = 3, seed: int = 0) -> Batch:
    size = method.backbone.image_size
    key = keys(seed, "masks", np.zeros(images, int), np.arange(images))
    return Batch(
        {"images": torch.randn(images, 1, 3, size, size)},
        {"images": torch.from_numpy(draw_masks(method.spec.masks["images"], key))},
        torch.arange(images),
    )


def branches(method: SplitMask, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    orders = [seen_first(part) for part in batch.masks["images"].unbind(1)]
    return method.branches(batch.views["images"][:, 0], orders)


@pytest.mark.parametrize("options", [{}, SMALL_SETS, {"visible": (0.25, 0.25)}])
def test_what_a_branch_does_not_see_does_not_reach_it(options):
    method = splitmask(**options).eval()
    batch = batch_for(method)
    images = batch.views["images"].requires_grad_()
    hidden, descriptors = branches(method, batch)
    first = len(images) * (16 - method.visible[0])
    for part, value in enumerate(
        (hidden[:first].sum() + descriptors[:3].square().sum(), hidden[first:].square().sum())
    ):
        [gradient] = torch.autograd.grad(value, images, retain_graph=True)
        cells = gradient[:, 0].unfold(2, 8, 8).unfold(3, 8, 8)
        touched = cells.abs().sum((1, 4, 5)).flatten(1) > 0
        assert torch.equal(touched, batch.masks["images"][:, part])


@pytest.mark.parametrize("split", ["block", "random"])
def test_halves_are_equal_disjoint_and_cover_the_image(split):
    model = ModelConfig(name="vit_tiny_patch16_224", arguments=TINY)
    with torch.device("meta"):
        backbone = build_backbone(model)
        spec = SplitMask(backbone, SplitMaskOptions(split=split), DATA).spec.masks["images"]
    assert spec.visible == (98, 98)
    assert (spec.min_block, spec.max_block) == (16, 75)
    masks = draw_masks(spec, keys(0, "masks", np.zeros(50, int), np.arange(50)))
    assert (masks.sum(2) == 98).all()
    assert (masks.sum(1) == 1).all()


def test_blocks_scale_with_the_grid():
    spec = splitmask().spec.masks["images"]
    assert (spec.grid, spec.min_block, spec.max_block) == ((4, 4), 1, 6)


@pytest.mark.parametrize("options", [{}, SMALL_SETS, {"visible": (0.25, 0.25)}])
def test_every_hidden_patch_is_predicted_at_its_own_place(monkeypatch, options):
    """With tokens that count the patches, the targets name the places that are predicted."""
    method = splitmask(**options)
    batch = batch_for(method, 4)
    seen = {}

    def record(features, head, targets):
        seen["targets"] = targets
        return head(features).sum(), {}

    monkeypatch.setattr("unlabel.methods.splitmask.token_loss", record)
    monkeypatch.setattr(method.tokenizer, "tokens", lambda x: torch.arange(16).expand(len(x), -1))
    method(batch, START)
    masks = batch.masks["images"]
    expected = [row.nonzero().flatten() for part in (~masks).unbind(1) for row in part]
    assert torch.equal(seen["targets"], torch.cat(expected))
    if sum(method.visible) == 16:  # each patch exactly once
        assert torch.equal(seen["targets"].bincount(), torch.full((16,), 4))


def test_features_stand_beside_their_targets():
    """The feature of a hidden patch is that of a decoder fed in plain row-major order."""
    method = splitmask().eval()
    batch = batch_for(method, 2)
    hidden, descriptors = branches(method, batch)
    expected, means = [], []
    for part in batch.masks["images"].unbind(1):
        for image, mask in zip(batch.views["images"][:, 0], part, strict=True):
            at = mask.nonzero().flatten()
            latent = method.backbone.tokens(image[None], visible=at[None])[0]
            full = method.decoder.mask_token[0].repeat(16, 1)
            full[at] = latent[1:]
            x = torch.cat([latent[:1], full + sincos_2d((4, 4), 48)])[None]
            for block in method.decoder.blocks:
                x = block(x)
            x = method.decoder.norm(x)[0]
            expected.append(x[1:][~mask])
            means.append(x.mean(0))
    torch.testing.assert_close(hidden, torch.cat(expected), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(descriptors, torch.stack(means), atol=1e-5, rtol=1e-5)


def test_one_batch_of_halves_equals_a_pass_for_each():
    method = splitmask().eval()
    batch = batch_for(method)
    together = method(batch, START).total
    method.visible = (8, Apart(8))
    torch.testing.assert_close(method(batch, START).total, together)


class Apart(int):
    """A count that claims to differ from its equal."""

    def __eq__(self, other):
        return False

    __hash__ = int.__hash__


def test_positions_of_seen_tokens_can_be_left_out():
    torch.manual_seed(0)
    decoders = [InpaintingDecoder(48, 1, 3, (4, 4), 1, again) for again in (True, False)]
    decoders[1].load_state_dict(decoders[0].state_dict())
    seen, order = torch.randn(2, 9, 48), torch.rand(2, 16).argsort(1)
    positions = torch.nn.functional.pad(sincos_2d((4, 4), 48)[order[:, :8]], (0, 0, 1, 0))
    torch.testing.assert_close(decoders[0](seen, order), decoders[1](seen + positions, order))


def test_scalars_say_how_hard_the_task_is():
    method = splitmask()
    losses = method(batch_for(method, 8), START)
    scalars = losses.scalars
    assert set(scalars) == {
        "mim",
        "match",
        "mim_accuracy",
        "match_accuracy",
        "majority_share",
        "token_perplexity",
    }
    assert not any(value.requires_grad for value in scalars.values())
    assert 1 < scalars["token_perplexity"] <= 64
    assert losses.total.item() == pytest.approx((scalars["mim"] + scalars["match"]).item())


def test_a_constant_predictor_scores_the_majority_share():
    method = splitmask(vocabulary=4)
    batch = batch_for(method, 8)
    common = method.tokenizer.tokens(batch.views["images"][:, 0]).flatten().bincount().argmax()
    torch.nn.init.zeros_(method.head.weight)
    method.head.bias.data[common] = 5
    scalars = method(batch, START).scalars
    assert scalars["mim_accuracy"].item() == pytest.approx(scalars["majority_share"].item())


@pytest.mark.parametrize("layers", [0, 2])
def test_every_trained_parameter_gets_a_gradient(layers):
    method = splitmask(projector_layers=layers)
    method(batch_for(method), START).total.backward()
    assert {n for n, p in method.named_parameters() if p.grad is None} == set()


def test_match_weight_zero_is_inpainting_alone():
    method = splitmask(match_weight=0)
    losses = method(batch_for(method), START)
    assert losses.total.item() == losses.scalars["mim"].item()


def test_residual_branches_start_smaller_with_depth_but_pretrained_ones_stay():
    torch.manual_seed(0)
    model = ModelConfig(name="vit_tiny_patch16_224", image_size=32, patch_size=8, arguments=TINY)
    fresh, trained = build_backbone(model), build_backbone(model)
    trained.load_state_dict(fresh.state_dict())
    trained.pretrained = True
    before = [block.mlp.fc2.weight.clone() for block in fresh.net.blocks]
    SplitMask(fresh, SplitMaskOptions(), DATA)
    SplitMask(trained, SplitMaskOptions(), DATA)
    for depth, weight in enumerate(before, start=1):
        scaled = fresh.net.blocks[depth - 1].mlp.fc2.weight
        torch.testing.assert_close(scaled, weight / (2 * depth) ** 0.5)
        assert torch.equal(trained.net.blocks[depth - 1].mlp.fc2.weight, weight)


def test_colour_is_asked_for_only_with_the_option():
    assert splitmask().spec.crops["images"].photometric.is_identity
    assert not splitmask(colour=True).spec.crops["images"].photometric.is_identity


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"visible": (0.6, 0.6)}, "visible"),
        ({"visible": (0.01, 0.5)}, "visible"),
        ({"decoder_heads": 5}, "decoder_heads"),
        ({"min_block": 80}, "min_block"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        splitmask(**options)


@pytest.mark.parametrize("options", [{}, SMALL_SETS, {"negatives": "both"}])
def test_nothing_waits_for_the_device(options):
    """On the meta device whatever needs a value on the host raises."""
    with torch.device("meta"):
        method = splitmask(**options)
        batch = Batch(
            {"images": torch.empty(2, 1, 3, 32, 32)},
            {"images": torch.empty(2, 2, 16, dtype=torch.bool)},
            torch.arange(2),
        )
        losses = method(batch, START)
        losses.total.backward()
    assert losses.total.shape == ()


def test_it_learns_a_few_images_by_heart():
    """A tiny set is memorised: far below what the tokens' frequencies alone would give."""
    method = splitmask(vocabulary=32)
    batch = batch_for(method, 4)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    curve = []
    for _ in range(60):
        losses = method(batch, START)
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        curve.append(losses.scalars)
    trivial = curve[0]["token_perplexity"].log()
    assert curve[0]["mim"] > 0.9 * trivial
    assert curve[-1]["mim"] < 0.5 * trivial
    assert curve[-1]["mim_accuracy"] > 2 * curve[-1]["majority_share"]
    assert curve[-1]["match"] < 0.5 * curve[0]["match"]

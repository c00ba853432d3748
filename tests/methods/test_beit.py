from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig
from unlabel.data.masks import draw_masks
from unlabel.data.random import keys
from unlabel.data.spec import Batch
from unlabel.errors import ConfigError
from unlabel.methods.base import DataInfo, Progress
from unlabel.methods.beit import BEiT, BEiTOptions, block_sizes

TINY = {"embed_dim": 48, "depth": 3, "num_heads": 3}
START = Progress(0, 10)


def beit(name: str = "vit_tiny_patch16_224", size: int = 32, channels: int = 3, **options) -> BEiT:
    torch.manual_seed(0)
    arguments = TINY if name.startswith("vit") else {"embed_dim": 24, "depths": [1, 1, 1, 1]}
    model = ModelConfig(
        name=name,
        image_size=size,
        patch_size=8 if name.startswith("vit") else 4,
        in_chans=channels,
        arguments=arguments,
    )
    data = DataInfo(images=8, classes=0, mean=(0.5,) * channels, std=(0.25,) * channels)
    return BEiT(build_backbone(model), BEiTOptions(**{"vocabulary": 64} | options), data)


def batch_for(method: BEiT, images: int = 3) -> Batch:
    size, channels = method.backbone.image_size, method.backbone.in_chans
    key = keys(0, "masks", np.zeros(images, int), np.arange(images))
    return Batch(
        {"images": torch.randn(images, 1, channels, size, size)},
        {"images": torch.from_numpy(draw_masks(method.spec.masks["images"], key))},
        torch.arange(images),
    )


def test_the_spec_is_the_published_one():
    with torch.device("meta"):
        model = ModelConfig(name="vit_tiny_patch16_224", arguments=TINY)
        data = DataInfo(8, 0, (0.5,) * 3, (0.25,) * 3)
        spec = BEiT(build_backbone(model), BEiTOptions(), data).spec
    mask = spec.masks["images"]
    assert (mask.kind, mask.visible, mask.min_block, mask.max_block) == ("block", (121,), 16, 75)
    jitter = spec.crops["images"].photometric
    assert (jitter.jitter_p, jitter.brightness, jitter.hue) == (1, 0.4, 0)
    assert BEiT.recipe.lr == pytest.approx(1.875e-4)


def test_images_that_are_not_rgb_get_no_jitter():
    method = beit(channels=1)
    assert method.spec.crops["images"].photometric.is_identity
    assert torch.isfinite(method(batch_for(method), START).total)


@pytest.mark.parametrize("exact", [True, False])
def test_the_loss_counts_hidden_patches_only(exact):
    method = beit(exact=exact, min_block=75, size=48).eval()
    batch = batch_for(method, 32)
    images, hidden = batch.views["images"][:, 0], ~batch.masks["images"][:, 0]
    assert (len(hidden.sum(1).unique()) == 1) == exact
    features = method.backbone.tokens(images, mask=hidden, mask_token=method.mask_token)
    targets = method.tokenizer.tokens(images)
    expected = cross_entropy(method.head(features[:, 1:][hidden]), targets[hidden])
    torch.testing.assert_close(method(batch, START).total, expected)


def test_hidden_pixels_do_not_reach_the_prediction():
    method = beit().eval()
    batch = batch_for(method)
    images = batch.views["images"].requires_grad_()
    method(batch, START).total.backward()
    cells = images.grad[:, 0].unfold(2, 8, 8).unfold(3, 8, 8).abs().sum((1, 4, 5)).flatten(1)
    assert torch.equal(cells > 0, batch.masks["images"][:, 0])


def test_swin_hides_whole_cells_of_its_last_grid():
    method = beit("swinv2_tiny_window8_256", 64)
    assert method.spec.masks["images"].grid == (2, 2)
    hidden = torch.tensor([[True, False, False, False]])
    large = method.enlarge(hidden).view(16, 16)
    assert large[:8, :8].all()
    assert large.sum() == 64
    losses = method(batch_for(method), START)
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert method.mask_token.grad.abs().sum() > 0


def test_every_trained_parameter_gets_a_gradient():
    method = beit()
    method(batch_for(method), START).total.backward()
    assert {n for n, p in method.named_parameters() if p.grad is None} == set()


def test_blocks_have_at_least_one_patch():
    assert block_sizes(16, 75, (14, 14)) == (16, 75)
    assert block_sizes(16, 75, (2, 2)) == (1, 2)
    assert block_sizes(16, 75, (28, 28)) == (64, 300)
    with pytest.raises(ConfigError, match="max_block"):
        block_sizes(76, 75, (14, 14))


def test_a_ratio_that_hides_nothing_is_refused():
    with pytest.raises(ConfigError, match="mask_ratio"):
        beit(mask_ratio=0.01)


@pytest.mark.parametrize("exact", [True, False])
def test_nothing_waits_for_the_device(exact):
    """On the meta device whatever needs a value on the host raises."""
    with torch.device("meta"):
        method = beit(exact=exact)
        images, masks = torch.empty(2, 1, 3, 32, 32), torch.empty(2, 1, 16, dtype=torch.bool)
        losses = method(Batch({"images": images}, {"images": masks}, torch.arange(2)), START)
        losses.total.backward()
    assert losses.total.shape == ()

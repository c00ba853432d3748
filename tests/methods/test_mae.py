from __future__ import annotations

import pytest
import torch

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig
from unlabel.data.spec import Batch
from unlabel.errors import ConfigError
from unlabel.methods.base import DataInfo, Progress
from unlabel.methods.mae import MAE, MAEOptions
from unlabel.methods.parts.positions import seen_first, sincos_2d, take

DATA = DataInfo(images=8, classes=0, mean=(0.5,) * 3, std=(0.25,) * 3)
TINY = {"embed_dim": 48, "depth": 3, "num_heads": 3}
START = Progress(0, 10)


def mae(**options) -> MAE:
    torch.manual_seed(0)
    model = ModelConfig(name="vit_tiny_patch16_224", image_size=32, patch_size=8, arguments=TINY)
    return MAE(build_backbone(model), MAEOptions(**options), DATA)


def batch_for(method: MAE, images: int = 3, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    n = method.spec.masks["images"].patches
    order = torch.rand(images, n, generator=generator).argsort(1)
    mask = torch.zeros(images, n, dtype=torch.bool).scatter(1, order[:, : method.visible], True)
    return Batch(
        views={"images": torch.randn(images, 1, 3, 32, 32, generator=generator)},
        masks={"images": mask[:, None]},
        ids=torch.arange(images),
    )


def test_spec_asks_for_a_quarter_of_the_patches():
    spec = mae().spec
    assert spec.masks["images"].visible == (4,)
    assert spec.masks["images"].grid == (4, 4)
    assert spec.crops["images"].size == 32
    assert spec.crops["images"].scale == (0.2, 1.0)


@pytest.mark.parametrize(
    ("dim", "depth", "expected"),
    [(768, 12, (512, 8, 16)), (384, 12, (256, 8, 8)), (48, 3, (32, 2, 1))],
)
def test_the_decoder_is_two_thirds_of_the_encoder(dim, depth, expected):
    arguments = {"embed_dim": dim, "depth": depth, "num_heads": 3}
    model = ModelConfig(
        name="vit_tiny_patch16_224", image_size=32, patch_size=16, arguments=arguments
    )
    with torch.device("meta"):
        decoder = MAE(build_backbone(model), MAEOptions(), DATA).decoder
    assert (decoder.embed.out_features, len(decoder.blocks)) == expected[:2]
    assert decoder.blocks[0].attn.num_heads == expected[2]


def test_hidden_pixels_do_not_reach_the_encoder_or_the_prediction():
    method = mae().eval()
    batch = batch_for(method)
    images = batch.views["images"][:, 0].clone().requires_grad_()
    order = seen_first(batch.masks["images"][:, 0])
    latent = method.backbone.tokens(images, visible=order[:, : method.visible])
    method.decoder(latent, order).square().sum().backward()
    touched = images.grad.unfold(2, 8, 8).unfold(3, 8, 8).abs().sum((1, 4, 5)).flatten(1) > 0
    assert torch.equal(touched, batch.masks["images"][:, 0])


def test_the_loss_ignores_the_order_of_images_and_repeats():
    method = mae()
    batch = batch_for(method)
    first, again = (method(batch, START).total for _ in range(2))
    turned = Batch(
        {"images": batch.views["images"].flip(0)},
        {"images": batch.masks["images"].flip(0)},
        batch.ids,
    )
    assert first.item() == again.item()
    assert first.item() == pytest.approx(method(turned, START).total.item(), rel=1e-6)


def test_a_zero_prediction_scores_the_targets_own_power():
    """Of standardised targets: (p * p * C - 1) / (p * p * C), as the variance is unbiased."""
    method = mae()
    torch.nn.init.zeros_(method.decoder.head.weight)
    values = 8 * 8 * 3
    loss = method(batch_for(method), START).total
    assert loss.item() == pytest.approx((values - 1) / values, rel=1e-4)


def test_flat_patches_give_a_finite_loss():
    method = mae()
    batch = batch_for(method)
    batch.views["images"].fill_(1.5)
    losses = method(batch, START)
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_every_trained_parameter_gets_a_gradient_and_positions_stay():
    method = mae()
    method(batch_for(method), START).total.backward()
    without = {n for n, p in method.named_parameters() if p.requires_grad and p.grad is None}
    assert without == set()
    assert not method.backbone.net.pos_embed.requires_grad
    assert mae(positions="learned").backbone.net.pos_embed.requires_grad


def test_pretrained_weights_are_kept():
    torch.manual_seed(1)
    model = ModelConfig(name="vit_tiny_patch16_224", image_size=32, patch_size=8, arguments=TINY)
    backbone = build_backbone(model)
    backbone.pretrained = True
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    MAE(backbone, MAEOptions(), DATA)
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())


def test_it_learns_a_few_images_by_heart():
    method = mae(norm_pix=False)
    batch = batch_for(method)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    first = method(batch, START).total.item()
    for _ in range(120):
        loss = method(batch, START).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * first


def test_a_ratio_that_leaves_nothing_is_refused():
    with pytest.raises(ConfigError, match="mask_ratio"):
        mae(mask_ratio=0.99)


def test_heads_must_divide_the_decoder():
    with pytest.raises(ConfigError, match="decoder_heads"):
        mae(decoder_dim=64, decoder_heads=5)


def test_sincos_positions_from_the_definition():
    table = sincos_2d((2, 3), 8).double()
    for row in range(2):
        for column in range(3):
            expected = []
            for at in (column, row):
                angles = [at / 10_000 ** (k / 2) for k in range(2)]
                for function in (torch.sin, torch.cos):
                    expected += [function(torch.tensor(a, dtype=torch.float64)) for a in angles]
            torch.testing.assert_close(
                table[row * 3 + column], torch.stack(expected), atol=1e-6, rtol=0
            )


def test_seen_first_keeps_each_parts_order():
    mask = torch.tensor([[False, True, False, True], [True, True, False, False]])
    assert seen_first(mask).tolist() == [[1, 3, 0, 2], [0, 1, 2, 3]]
    tokens = torch.arange(8.0).reshape(2, 4, 1)
    assert take(tokens, seen_first(mask)[:, :2]).flatten().tolist() == [1, 3, 4, 5]


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_nothing_waits_for_the_device(channels):
    """On the meta device whatever needs a value on the host raises."""
    model = ModelConfig(
        name="vit_tiny_patch16_224",
        image_size=32,
        patch_size=8,
        in_chans=channels,
        arguments=TINY,
    )
    with torch.device("meta"):
        method = MAE(build_backbone(model), MAEOptions(), DATA)
        views, masks = torch.empty(2, 1, channels, 32, 32), torch.empty(2, 1, 16, dtype=torch.bool)
        batch = Batch({"images": views}, {"images": masks}, torch.arange(2))
        losses = method(batch, START)
        losses.total.backward()
    assert losses.total.shape == ()
    assert method.decoder.head.out_features == 64 * channels

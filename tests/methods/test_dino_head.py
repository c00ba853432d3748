from __future__ import annotations

import pytest
import torch
from lightly.models.modules import DINOProjectionHead

from unlabel.methods.parts.dino_head import DINOHead


def pair(batch_norm: bool, norm_last_layer: bool) -> tuple[DINOHead, DINOProjectionHead]:
    """Ours and Lightly's with the same weights."""
    torch.manual_seed(0)
    ours = DINOHead(12, 20, 8, 30, batch_norm, norm_last_layer)
    theirs = DINOProjectionHead(
        12, 20, 8, 30, batch_norm=batch_norm, norm_last_layer=norm_last_layer
    )
    if not norm_last_layer:
        torch.nn.init.uniform_(ours.lengths, 0.5, 2)
    with torch.no_grad():
        if batch_norm:  # Lightly's linear layers have no bias before a norm, which takes it out
            for layer in (ours.mlp[0], ours.mlp[3]):
                layer.bias.normal_()
    names = {name.replace("layers.", ""): value for name, value in theirs.layers.named_parameters()}
    for name, value in ours.mlp.named_parameters():
        if name in names:
            names[name].data.copy_(value)
    theirs.last_layer.weight_v.data.copy_(ours.directions)
    theirs.last_layer.weight_g.data.copy_(ours.lengths)
    return ours, theirs


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("norm_last_layer", [False, True])
def test_logits_and_gradients_are_lightlys(batch_norm: bool, norm_last_layer: bool):
    ours, theirs = pair(batch_norm, norm_last_layer)
    x, weights = torch.randn(6, 12), torch.randn(6, 30)
    for head in (ours, theirs):
        (head(x) * weights).sum().backward()
    torch.testing.assert_close(ours(x), theirs(x))
    last = theirs.last_layer
    close = {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(ours.directions.grad, last.weight_v.grad, **close)
    assert ours.lengths.requires_grad == last.weight_g.requires_grad != norm_last_layer
    if not norm_last_layer:
        torch.testing.assert_close(ours.lengths.grad, last.weight_g.grad, **close)
    torch.testing.assert_close(ours.mlp[0].weight.grad, theirs.layers[0].weight.grad, **close)


def test_a_held_last_layer_gets_zeros_and_lets_gradients_through():
    head = DINOHead(12, 20, 8, 30, norm_last_layer=False)
    x = torch.randn(6, 12)
    assert torch.equal(head(x), head(x, hold=True))
    head(x, hold=True).square().sum().backward()
    assert not head.directions.grad.any()
    assert not head.lengths.grad.any()
    assert all(p.grad.any() for p in head.mlp.parameters())


def test_the_start_is_the_published_one():
    torch.manual_seed(0)
    head = DINOHead(192, 256, 64, 512)
    for layer in head.mlp:
        if isinstance(layer, torch.nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert not layer.bias.any()
    assert head.directions.abs().max() <= 64**-0.5
    assert head(torch.randn(1000, 192)).abs().max() <= 1 + 1e-6  # cosines

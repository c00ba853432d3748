"""MAE's loss and gradients against transformers' ViTMAE on the same weights, masks and images."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig
from unlabel.data.spec import Batch
from unlabel.methods.base import DataInfo, Progress
from unlabel.methods.mae import MAE, MAEOptions
from unlabel.methods.parts.positions import sincos_2d

DATA = DataInfo(images=8, classes=0, mean=(0.5,) * 3, std=(0.25,) * 3)
DIM, DEPTH, HEADS, SIDE, PATCH = 48, 3, 4, 32, 8


def pair(norm_pix: bool) -> tuple[MAE, ViTMAEForPreTraining]:
    torch.manual_seed(0)
    model = ModelConfig(
        name="vit_tiny_patch16_224",
        image_size=SIDE,
        patch_size=PATCH,
        arguments={"embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS},
    )
    options = MAEOptions(norm_pix=norm_pix, decoder_dim=32, decoder_depth=2, decoder_heads=4)
    ours = MAE(build_backbone(model), options, DATA)
    config = ViTMAEConfig(
        hidden_size=DIM,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * DIM,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        image_size=SIDE,
        patch_size=PATCH,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=128,
        layer_norm_eps=1e-6,
        norm_pix_loss=norm_pix,
    )
    theirs = ViTMAEForPreTraining(config)
    for parameter in ours.parameters():
        # Away from the start, where zero biases would hide a wrong copy.
        nn.init.normal_(parameter, std=0.1)
    copy_all(ours, theirs)
    return ours, theirs


@torch.no_grad()
def copy_all(ours: MAE, theirs: ViTMAEForPreTraining) -> None:
    net, embeddings = ours.backbone.net, theirs.vit.embeddings
    embeddings.patch_embeddings.projection.load_state_dict(net.patch_embed.proj.state_dict())
    embeddings.cls_token.copy_(net.cls_token)
    embeddings.position_embeddings.copy_(net.pos_embed)
    for mine, other in zip(net.blocks, theirs.vit.layers, strict=True):
        copy_block(mine, other)
    theirs.vit.layernorm.load_state_dict(net.norm.state_dict())
    decoder = theirs.decoder
    decoder.decoder_embed.load_state_dict(ours.decoder.embed.state_dict())
    decoder.mask_token.copy_(ours.decoder.mask_token)
    decoder.decoder_pos_embed[0, 1:] = ours.decoder.positions
    for mine, other in zip(ours.decoder.blocks, decoder.decoder_layers, strict=True):
        copy_block(mine, other)
    decoder.decoder_norm.load_state_dict(ours.decoder.norm.state_dict())
    decoder.decoder_pred.load_state_dict(ours.decoder.head.state_dict())


def copy_block(mine: nn.Module, other: nn.Module) -> None:
    """Give their block our weights, whatever their release calls its linear layers."""
    q, k, v = mine.attn.qkv.weight.chunk(3)
    bq, bk, bv = mine.attn.qkv.bias.chunk(3)
    values = [
        (q, bq),
        (k, bk),
        (v, bv),
        (mine.attn.proj.weight, mine.attn.proj.bias),
        (mine.mlp.fc1.weight, mine.mlp.fc1.bias),
        (mine.mlp.fc2.weight, mine.mlp.fc2.bias),
    ]
    linears = [m for m in other.modules() if isinstance(m, nn.Linear)]
    norms = [m for m in other.modules() if isinstance(m, nn.LayerNorm)]
    for linear, (weight, bias) in zip(linears, values, strict=True):
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    for norm, own in zip(norms, (mine.norm1, mine.norm2), strict=True):
        norm.load_state_dict(own.state_dict())


@pytest.mark.parametrize("norm_pix", [True, False])
def test_loss_and_gradients_equal_vitmae(norm_pix):
    ours, theirs = pair(norm_pix)
    images = torch.randn(4, 3, SIDE, SIDE)
    noise = torch.rand(4, 16)
    expected = theirs(images, noise=noise)
    seen = expected.mask == 0
    batch = Batch({"images": images[:, None]}, {"images": seen[:, None]}, torch.arange(4))
    loss = ours(batch, Progress(0, 1)).total

    assert loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    loss.backward()
    expected.loss.backward()
    net, decoder = ours.backbone.net, ours.decoder
    pairs = [
        (net.patch_embed.proj.weight, theirs.vit.embeddings.patch_embeddings.projection.weight),
        (net.cls_token, theirs.vit.embeddings.cls_token),
        (net.norm.weight, theirs.vit.layernorm.weight),
        (decoder.mask_token, theirs.decoder.mask_token),
        (decoder.head.weight, theirs.decoder.decoder_pred.weight),
    ]
    for mine, other in pairs:
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-5)


def test_the_fixed_positions_are_theirs():
    _, theirs = pair(True)
    embeddings = theirs.vit.embeddings
    # Building the whole model marks this layer as done and leaves the positions at zero.
    embeddings.patch_embeddings.projection._is_hf_initialized = False
    embeddings.initialize_weights()
    expected = embeddings.position_embeddings[0].detach()
    torch.testing.assert_close(sincos_2d((4, 4), DIM), expected[1:])
    assert not expected[0].any()

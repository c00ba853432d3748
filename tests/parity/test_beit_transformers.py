"""BEiT's loss and gradients against transformers' on the same weights, masks, tokens and images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BeitConfig, BeitForMaskedImageModeling

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig
from unlabel.data.masks import draw_masks
from unlabel.data.random import keys
from unlabel.data.spec import Batch
from unlabel.methods.base import DataInfo, Progress
from unlabel.methods.beit import BEiT, BEiTOptions

DATA = DataInfo(images=8, classes=0, mean=(0.5,) * 3, std=(0.25,) * 3)
DIM, DEPTH, HEADS, SIDE, PATCH, VOCABULARY = 48, 3, 4, 48, 8, 64


def pair(exact: bool) -> tuple[BEiT, BeitForMaskedImageModeling]:
    torch.manual_seed(0)
    model = ModelConfig(
        name="vit_tiny_patch16_224",
        image_size=SIDE,
        patch_size=PATCH,
        arguments={"embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS},
    )
    ours = BEiT(
        build_backbone(model), BEiTOptions(vocabulary=VOCABULARY, min_block=75, exact=exact), DATA
    )
    config = BeitConfig(
        vocab_size=VOCABULARY,
        hidden_size=DIM,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * DIM,
        layer_norm_eps=1e-6,
        image_size=SIDE,
        patch_size=PATCH,
        use_mask_token=True,
        use_absolute_position_embeddings=True,
        use_relative_position_bias=False,
        use_shared_relative_position_bias=False,
        layer_scale_init_value=0.0,
        drop_path_rate=0.0,
    )
    theirs = BeitForMaskedImageModeling(config)
    for parameter in ours.parameters():
        # Away from the start, where zero biases would hide a wrong copy.
        nn.init.normal_(parameter, std=0.1)
    copy_all(ours, theirs)
    return ours, theirs


@torch.no_grad()
def copy_all(ours: BEiT, theirs: BeitForMaskedImageModeling) -> None:
    net = ours.backbone.net
    for block in net.blocks:  # BEiT's keys have no bias
        block.attn.qkv.bias[DIM : 2 * DIM] = 0
    values = {
        "beit.embeddings.cls_token": net.cls_token,
        "beit.embeddings.mask_token": ours.mask_token,
        "beit.embeddings.position_embeddings": net.pos_embed,
    }
    values |= named("beit.embeddings.patch_embeddings.projection", net.patch_embed.proj)
    values |= named("layernorm", net.norm) | named("lm_head", ours.head)
    for i, block in enumerate(net.blocks):
        values |= of_block(f"beit.layers.{i}", block)
    names = set(theirs.state_dict())
    assert set(values) == names, set(values) ^ names
    theirs.load_state_dict(values)


def named(prefix: str, module: nn.Module) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": value for name, value in module.state_dict().items()}


def of_block(prefix: str, block: nn.Module) -> dict[str, torch.Tensor]:
    values = {}
    for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
        part = slice(i * DIM, (i + 1) * DIM)
        values[f"{prefix}.attention.{name}.weight"] = block.attn.qkv.weight[part]
        if name != "k_proj":
            values[f"{prefix}.attention.{name}.bias"] = block.attn.qkv.bias[part]
    values |= named(f"{prefix}.attention.o_proj", block.attn.proj)
    values |= named(f"{prefix}.mlp.fc1", block.mlp.fc1)
    values |= named(f"{prefix}.mlp.fc2", block.mlp.fc2)
    values |= named(f"{prefix}.layernorm_before", block.norm1)
    values |= named(f"{prefix}.layernorm_after", block.norm2)
    return values


@pytest.mark.parametrize("exact", [True, False])
def test_loss_and_gradients_are_those_of_transformers(exact):
    ours, theirs = pair(exact)
    count = 32
    images = torch.randn(count, 3, SIDE, SIDE)
    key = keys(0, "masks", np.zeros(count, int), np.arange(count))
    masks = torch.from_numpy(draw_masks(ours.spec.masks["images"], key))
    hidden = ~masks[:, 0]
    assert (len(hidden.sum(1).unique()) == 1) == exact
    batch = Batch({"images": images[:, None]}, {"images": masks}, torch.arange(count))
    loss = ours(batch, Progress(0, 1)).total
    tokens = ours.tokenizer.tokens(images)
    expected = theirs(images, bool_masked_pos=hidden, labels=tokens[hidden]).loss
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    loss.backward()
    expected.backward()
    embeddings = theirs.beit.embeddings
    for mine, peer in (
        (ours.mask_token, embeddings.mask_token),
        (ours.backbone.net.pos_embed, embeddings.position_embeddings),
        (ours.backbone.net.patch_embed.proj.weight, embeddings.patch_embeddings.projection.weight),
        (ours.head.weight, theirs.lm_head.weight),
    ):
        torch.testing.assert_close(mine.grad, peer.grad, atol=1e-6, rtol=1e-4)

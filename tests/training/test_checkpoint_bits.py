"""Checkpoints give back every bit of weights and optimiser, in files that the library reads."""

from __future__ import annotations

import pytest
import timm
import torch
from checkpoint_toys import OPTIMIZERS, assert_same_bits, build, save_after, update
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from timm.optim import Lars, param_groups_layer_decay
from torch import nn

from unlabel.training.checkpoint import load, parameter_names, save
from unlabel.training.tensorfile import tensor_file


def states_of(optimizer, net):
    names = parameter_names(net)
    return {
        f"{names[p]} {key}": torch.as_tensor(value)
        for p, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None
    }


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, kind, dtype, memory_format):
    net, optimizer = build(kind, dtype, memory_format)
    for step in range(3):
        update(net, optimizer, step)
    path = save_after(tmp_path, 3, net, optimizer, loss=0.1 + 0.2)

    other, resumed = build(kind, dtype, memory_format, seed=1)
    update(other, resumed, 0)  # whatever was there before is gone
    assert load(path, other, resumed) == {"loss": 0.1 + 0.2, "step": 3}
    assert_same_bits(net.state_dict(), other.state_dict())
    assert_same_bits(states_of(optimizer, net), states_of(resumed, other))
    for step in range(3, 5):
        update(net, optimizer, step)
        update(other, resumed, step)
    assert_same_bits(net.state_dict(), other.state_dict())
    assert_same_bits(states_of(optimizer, net), states_of(resumed, other))
    ours, theirs = optimizer.state_dict(), resumed.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    assert type(resumed.param_groups[0]["lr"]) is type(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    "make",
    [
        lambda groups: torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True),
        lambda groups: Lars(groups, lr=0.1, momentum=0.9),
    ],
)
def test_a_vit_with_layer_decay_resumes_bit_for_bit(tmp_path, make):
    def build_vit(seed):
        torch.manual_seed(seed)
        net = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=2, num_heads=2, num_classes=4
        )
        return net, make(param_groups_layer_decay(net, weight_decay=0.05, layer_decay=0.7))

    def step(net, optimizer, seed):
        torch.manual_seed(seed)
        net(torch.randn(2, 3, 32, 32)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    net, optimizer = build_vit(0)
    step(net, optimizer, 1)
    path = save_after(tmp_path, 1, net, optimizer)
    other, resumed = build_vit(5)
    load(path, other, resumed)
    step(net, optimizer, 2)
    step(other, resumed, 2)
    assert_same_bits(net.state_dict(), other.state_dict())


def test_state_that_is_wider_than_its_parameter_is_kept(tmp_path):
    """An optimiser may keep fp32 moments beside bf16 weights; torch's own loading casts them."""
    net, optimizer = build("sgd", torch.bfloat16)
    update(net, optimizer, 0)
    state = optimizer.state[net.conv.weight]
    state["momentum_buffer"] = state["momentum_buffer"].float() + 1e-6
    path = save_after(tmp_path, 1, net, optimizer)
    other, resumed = build("sgd", torch.bfloat16)
    load(path, other, resumed)
    kept = resumed.state[other.conv.weight]["momentum_buffer"]
    assert kept.dtype == torch.float32
    assert torch.equal(kept, state["momentum_buffer"])


def test_tied_weights_come_back_tied(tmp_path):
    def build_tied():
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        net[1].weight = net[0].weight
        return net, torch.optim.AdamW(net.parameters())

    net, optimizer = build_tied()
    net(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    path = save_after(tmp_path, 1, net, optimizer)
    assert load_file(path / "model.safetensors").keys() == net.state_dict().keys()
    other, resumed = build_tied()
    load(path, other, resumed)
    assert other[1].weight is other[0].weight
    assert_same_bits(net.state_dict(), other.state_dict())


def test_special_values_keep_their_bits(tmp_path):
    values = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    patterns = torch.tensor([0x7FC00001, 0x7F800000, -(2**31), 1], dtype=torch.int32)
    net = nn.Module()
    net.register_buffer("values", values)
    net.register_buffer("patterns", patterns.view(torch.float32))
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    names = {optimizer.param_groups[0]["params"][0]: "p"}
    path = save(tmp_path, 1, net.state_dict(), optimizer, names, {"best": float("inf")})
    other = nn.Module()
    other.register_buffer("values", torch.zeros(4))
    other.register_buffer("patterns", torch.zeros(4))
    assert load(path, other) == {"best": float("inf"), "step": 1}
    assert_same_bits(net.state_dict(), other.state_dict())


TYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(
            lambda name: name != "__metadata__"
        ),
        st.tuples(st.sampled_from(TYPES), st.lists(st.integers(0, 3), max_size=3)),
        max_size=6,
    )
)
@settings(max_examples=60, deadline=None)
def test_the_library_reads_every_file_that_we_write(tmp_path_factory, wanted):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randint(0, 2, shape, generator=generator).to(dtype)
        for name, (dtype, shape) in wanted.items()
    }
    content = tensor_file(tensors)
    path = tmp_path_factory.mktemp("file") / "tensors.safetensors"
    path.write_bytes(b"".join(content.chunks))
    assert path.stat().st_size == content.size
    assert_same_bits(tensors, load_file(path))


def test_views_are_written_as_themselves(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"row": whole[1], "column": whole[:, 1], "turned": whole.T, "whole": whole}
    path = tmp_path / "views.safetensors"
    path.write_bytes(b"".join(tensor_file(tensors).chunks))
    assert_same_bits({k: v.contiguous() for k, v in tensors.items()}, load_file(path))

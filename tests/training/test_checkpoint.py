"""Checkpoints give back every bit, notice every flipped one, and refuse another run's."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from timm.optim import Lars, param_groups_layer_decay
from torch import nn

from unlabel.atomic import mismatch
from unlabel.errors import ConfigError, DataError
from unlabel.training import checkpoint
from unlabel.training.checkpoint import latest, load, parameter_names, path_of, prune, save
from unlabel.training.tensorfile import tensor_file


class Net(nn.Module):
    """A convolution, a norm with buffers, a linear layer, and one parameter that never learns."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, images):
        return self.head(self.norm(self.conv(images)).relu().mean((2, 3)))


def groups_of(net):
    matrices = [p for p in net.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in net.parameters() if p.requires_grad and p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": 0.05, "lr_scale": 0.5},
        {"params": vectors, "weight_decay": 0.0, "lr_scale": 1.0},
    ]


OPTIMIZERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95), fused=False),
    "adamw fused": lambda groups: torch.optim.AdamW(groups, lr=3e-3, fused=True),
    "adamw tensor lr": lambda groups: torch.optim.AdamW(groups, lr=torch.tensor(3e-3)),
    "amsgrad": lambda groups: torch.optim.AdamW(groups, lr=3e-3, amsgrad=True),
    "lars": lambda groups: Lars(groups, lr=0.3, momentum=0.9),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
    "nadam": lambda groups: torch.optim.NAdam(groups, lr=3e-3),
    "adafactor": lambda groups: timm.optim.Adafactor(groups, lr=3e-3),
    "lamb": lambda groups: timm.optim.Lamb(groups, lr=3e-3),
}


def build(kind="adamw", dtype=torch.float32, memory_format=torch.contiguous_format, seed=0):
    torch.manual_seed(seed)
    net = Net().to(dtype).to(memory_format=memory_format)
    return net, OPTIMIZERS[kind](groups_of(net))


def update(net, optimizer, step):
    torch.manual_seed(100 + step)
    images = torch.randn(4, 3, 8, 8).to(net.conv.weight.dtype)
    net(images).float().log_softmax(-1)[:, step % 5].mean().neg().backward()
    optimizer.step()
    optimizer.zero_grad()


def save_after(folder, step, net, optimizer, **state):
    return save(folder, step, net.state_dict(), optimizer, parameter_names(net), state)


def assert_same_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        other = theirs[name]
        assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape), name
        same = torch.equal(
            tensor.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)
        )
        assert same, name


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


@pytest.fixture
def two(tmp_path):
    """A folder with checkpoints of steps 1 and 2, and the network and optimiser after them."""
    net, optimizer = build()
    for step in (1, 2):
        update(net, optimizer, step)
        save_after(tmp_path, step, net, optimizer)
    return tmp_path, net, optimizer


def test_no_checkpoint_yet(tmp_path):
    assert latest(tmp_path / "checkpoints") is None
    (tmp_path / ".unlabel-half").mkdir()
    (tmp_path / "step-notes").mkdir()
    assert latest(tmp_path) is None


def test_latest_is_the_highest_step(two):
    folder, net, optimizer = two
    save_after(folder, 10, net, optimizer)
    save_after(folder, 9, net, optimizer)
    assert latest(folder) == path_of(folder, 10)


def _flip(file, bit):
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def test_every_flipped_bit_is_noticed_and_named(two):
    folder, _, _ = two
    chance = random.Random(0)
    files = sorted(path_of(folder, 2).iterdir())
    assert len(files) == 4
    for number in range(104):
        file = files[number % 4]
        intact = file.read_bytes()
        _flip(file, chance.randrange(8 * len(intact)))
        problem = mismatch(path_of(folder, 2))
        assert problem, file
        if file.name != "manifest.json":
            assert file.name in problem
        with pytest.warns(RuntimeWarning, match="step-00000002 is damaged"):
            assert latest(folder) == path_of(folder, 1)
        file.write_bytes(intact)
    assert latest(folder) == path_of(folder, 2)


def test_bits_of_a_manifest_are_noticed_all_over(two):
    folder, _, _ = two
    manifest = path_of(folder, 2) / "manifest.json"
    intact = manifest.read_bytes()
    for bit in range(0, 8 * len(intact), 13):
        _flip(manifest, bit)
        assert mismatch(path_of(folder, 2)), bit
        manifest.write_bytes(intact)


def test_all_damaged_is_an_error_and_never_a_fresh_start(two):
    folder, net, optimizer = two
    for step in (1, 2):
        _flip(path_of(folder, step) / "model.safetensors", 3000)
    with (
        pytest.warns(RuntimeWarning, match="is damaged"),
        pytest.raises(DataError, match=r"model\.safetensors"),
    ):
        latest(folder)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load(path_of(folder, 2), net, optimizer)


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(two):
    folder, net, optimizer = two
    _flip(path_of(folder, 2) / "state.json", 100)
    save_after(folder, 2, net, optimizer)
    assert latest(folder) == path_of(folder, 2)


def test_a_step_is_saved_once(two):
    folder, net, optimizer = two
    first = (path_of(folder, 2) / "manifest.json").stat().st_mtime_ns
    assert save_after(folder, 2, net, optimizer) == path_of(folder, 2)
    assert (path_of(folder, 2) / "manifest.json").stat().st_mtime_ns == first


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(DataError, match="cannot be used"):
        load(tmp_path, *build())


def steps_in(folder):
    return sorted(int(path.name[5:]) for path in folder.glob("step-*"))


def test_prune_keeps_the_last_and_the_best(two):
    folder, net, optimizer = two
    for step in (3, 4):
        save_after(folder, step, net, optimizer)
    prune(folder, {path_of(folder, 4), path_of(folder, 2)})
    assert steps_in(folder) == [2, 4]
    assert list(folder.glob(".unlabel-*")) == []


def test_prune_never_goes_below_one_that_is_whole(two):
    folder, net, optimizer = two
    save_after(folder, 3, net, optimizer)
    _flip(path_of(folder, 3) / "model.safetensors", 3000)
    prune(folder, {path_of(folder, 3), path_of(folder, 7)})
    assert steps_in(folder) == [2, 3]
    prune(folder, set())
    assert steps_in(folder) == [2]


def test_another_model_is_refused_with_its_differences(two):
    folder, _, _ = two
    other = Net()
    other.head = nn.Linear(8, 7)
    other.extra = nn.Linear(2, 2)
    del other.unused
    untouched = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(ConfigError) as caught:
        load(path_of(folder, 2), other)
    text = str(caught.value)
    assert "2 missing: extra.bias, extra.weight" in text
    assert "1 unexpected: unused" in text
    assert "head.weight ((5, 8) float32, needed (7, 8) float32)" in text
    assert_same_bits(untouched, other.state_dict())


def test_another_precision_is_refused(two):
    folder, _, _ = two
    with pytest.raises(ConfigError, match=r"float32, needed .* bfloat16"):
        load(path_of(folder, 2), *build(dtype=torch.bfloat16))


def test_another_optimiser_is_refused(two):
    folder, net, _ = two
    with pytest.raises(ConfigError, match="frozen"):
        load(path_of(folder, 2), net, torch.optim.AdamW(net.parameters()))


def test_no_pickle_in_a_checkpoint(two):
    folder, _, _ = two
    for file in path_of(folder, 2).iterdir():
        if file.suffix == ".safetensors":
            load_file(file)
        else:
            json.loads(file.read_text())
    names = {file.name for file in path_of(folder, 2).iterdir()}
    assert names == {checkpoint.MODEL, checkpoint.OPTIMIZER, checkpoint.STATE, "manifest.json"}


def test_a_copied_checkpoint_is_as_good(two, tmp_path):
    folder, net, optimizer = two
    shutil.copytree(path_of(folder, 2), tmp_path / "elsewhere" / "step-00000002")
    assert load(tmp_path / "elsewhere" / "step-00000002", net, optimizer)["step"] == 2

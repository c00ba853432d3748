"""Checkpoints notice every flipped bit, refuse another run's, and never all go."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import torch
from checkpoint_toys import Net, assert_same_bits, build, save_after, update
from safetensors.torch import load_file
from torch import nn

from unlabel.atomic import mismatch
from unlabel.errors import ConfigError, DataError
from unlabel.training import checkpoint
from unlabel.training.checkpoint import latest, load, path_of, prune


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

"""A checkpoint's network is built from the checkpoint alone, whatever the run started from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig, PretrainConfig
from unlabel.data.store import Store
from unlabel.errors import ConfigError, DataError, InputMissing
from unlabel.export import export_backbone
from unlabel.pretraining import load_backbone
from unlabel.training import checkpoint
from unlabel.training.exported import exported_state, load_exported
from unlabel.training.loop import train
from unlabel.training.optim import build_optimizer
from unlabel.training.run import Run
from unlabel.training.setup import build

VIT = {
    "name": "vit_nano",
    "image_size": 16,
    "patch_size": 4,
    "arguments": {"embed_dim": 32, "depth": 2, "num_heads": 2},
}
SWIN = {
    "name": "swinv2_tiny_window8_256",
    "image_size": 64,
    "arguments": {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]},
}
RESNET = {"name": "resnet_nano", "image_size": 16}


def start(folder: Path, model: dict, **changes) -> str:
    """The weights of a network of ``model``, as a file to start from."""
    torch.manual_seed(3)
    backbone = build_backbone(ModelConfig(**model | changes))
    save_file(backbone.net.state_dict(), folder / "start.safetensors")
    return str(folder / "start.safetensors")


def saved(folder: Path, config: PretrainConfig, drift: float = 0.0):
    """A method as a run would build it, and its checkpoint.

    With ``drift`` the network that it exports has left the others behind.
    """
    store = Store.open(config.data)
    method = build(config, store)
    with torch.no_grad():
        for number, parameter in enumerate(method.exported.parameters()):
            parameter += drift * number
    names = checkpoint.parameter_names(method)
    optimizer = build_optimizer(method, config.optim)
    state = exported_state(method, store.info)
    return method, checkpoint.save(folder, 1, method.state_dict(), optimizer, names, state)


def settings(store: Path, method: str, model: dict, **rest) -> PretrainConfig:
    return PretrainConfig.model_validate({"data": store, "method": method, "model": model, **rest})


@pytest.mark.parametrize("trained", [{"fc_norm": True}, {"fc_norm": False}])
def test_a_vit_that_began_with_a_file_that_is_gone(tmp_path, shapes_store, trained):
    weights = start(tmp_path, VIT, arguments=VIT["arguments"] | trained)
    method, path = saved(tmp_path, settings(shapes_store, "simclr", VIT | {"weights": weights}))
    Path(weights).unlink()
    _same_features(method.exported, load_exported(path))


def test_a_swin_with_the_windows_that_its_weights_came_with(tmp_path, shapes_store):
    weights = start(tmp_path, SWIN, image_size=128)
    method, path = saved(tmp_path, settings(shapes_store, "simclr", SWIN | {"weights": weights}))
    Path(weights).unlink()
    _same_features(method.exported, load_exported(path))


def test_a_resnet_that_began_with_an_exported_folder(tmp_path, shapes_store):
    first = build_backbone(ModelConfig(**RESNET, enlarge=2))
    pixels = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "notes": {}}
    export_backbone(first, tmp_path / "export", **pixels)
    model = {"name": f"local-dir:{tmp_path / 'export'}", "image_size": 16}
    method, path = saved(tmp_path, settings(shapes_store, "simclr", model))
    shutil.rmtree(tmp_path / "export")
    again = load_exported(path)
    assert again.enlarge == method.exported.enlarge == 2
    _same_features(method.exported, again)


@pytest.mark.parametrize(
    ("method", "rest"),
    [("dino", {}), ("byol", {}), ("simclr", {"average": 0.9}), ("supervised", {})],
)
def test_whatever_network_the_method_exports(tmp_path, shapes_store, method, rest):
    config = settings(shapes_store, method, VIT, **rest)
    trained, path = saved(tmp_path, config, drift=0.01)
    _same_features(trained.exported, load_exported(path))


def test_a_finished_run_needs_neither_its_start_nor_its_images(tmp_path, small_run):
    shutil.copytree(small_run.data, tmp_path / "store")
    weights = start(tmp_path, VIT)
    model = small_run.model.model_copy(update={"weights": weights})
    config = small_run.model_copy(update={"data": tmp_path / "store", "model": model, "steps": 2})
    run = Run.create(tmp_path / "run", config, {})
    train(run)
    before = load_backbone(run)
    info = Store.open(tmp_path / "store").info
    shutil.rmtree(tmp_path / "store")
    Path(weights).unlink()
    _same_features(before, load_backbone(run))
    assert (before.mean, before.std) == (info.mean, info.std)
    assert before.pretrained
    assert not before.training


def test_a_checkpoint_that_does_not_say_what_it_exports_is_refused(tmp_path, shapes_store):
    _, path = saved(tmp_path, settings(shapes_store, "simclr", RESNET))
    state = json.loads((path / checkpoint.STATE).read_text())
    state["state"] = {}
    (path / checkpoint.STATE).write_text(json.dumps(state))
    with pytest.raises(DataError, match="did not say"):
        load_exported(path)


def test_another_network_of_the_checkpoint_is_refused(tmp_path, shapes_store):
    _, path = saved(tmp_path, settings(shapes_store, "simclr", RESNET))
    other = build_backbone(ModelConfig(**VIT))
    with pytest.raises(ConfigError, match="missing: net"):
        checkpoint.load_part(path, other, "backbone")


def test_a_run_without_a_checkpoint_says_how_to_go_on(tmp_path, small_run):
    run = Run.create(tmp_path / "run", small_run, {})
    with pytest.raises(InputMissing, match="--resume"):
        load_backbone(run)


def _same_features(ours, theirs) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, ours.image_size, ours.image_size)
    with torch.no_grad():
        assert torch.equal(ours.eval().embed(images), theirs.eval().embed(images))

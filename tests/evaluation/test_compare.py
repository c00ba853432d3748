"""What can stand beside a run: other runs, exports, files of weights and timm's models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from unlabel.config import PretrainConfig
from unlabel.errors import ConfigError, DataError, InputMissing
from unlabel.evaluating import subjects
from unlabel.pretraining import export_run, load_backbone
from unlabel.training.loop import train
from unlabel.training.run import Run

OURS = ["pre-trained (simclr)", "untrained", "labels only", "raw pixels"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, shapes_store) -> Run:
    """A run of two steps, with its export."""
    folder = tmp_path_factory.mktemp("compared") / "run"
    config = PretrainConfig.model_validate(
        {
            "data": shapes_store,
            "method": "simclr",
            "model": {"name": "resnet_nano", "image_size": 16},
            "steps": 2,
            "batch_size": 16,
            "evaluations": 1,
            "trackers": [],
        }
    )
    run = Run.create(folder, config, {})
    train(run)
    export_run(run)
    return run


def embedded(backbone) -> torch.Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return backbone.eval().embed(torch.randn(2, 3, 16, 16))


@pytest.mark.parametrize("what", ["", "export", "export/model.safetensors", "local-dir:export"])
def test_the_same_weights_give_the_same_features(run, what):
    prefix, _, path = what.rpartition(":")
    name = f"{prefix}:{run.path / path}" if prefix else str(run.path / path)
    found = subjects(run, [name])
    assert list(found)[:4] == OURS
    other = found[list(found)[4]].build(0)
    assert torch.equal(embedded(other), embedded(load_backbone(run)))


def test_another_run_stands_by_its_name(run):
    assert list(subjects(run, [str(run.path)]))[4] == "run"


def test_runs_of_one_name_both_stand(run, tmp_path):
    again = str(shutil.copytree(run.path, tmp_path / "run"))
    names = list(subjects(run, [str(run.path), again]))[4:]
    assert names == ["run", again]


@pytest.mark.parametrize("name", ["runs/nothing", "local-dir:nothing/there"])
def test_a_path_with_nothing_to_compare_is_told(run, name):
    with pytest.raises(InputMissing, match="no run, no exported folder and no file"):
        subjects(run, [name])


def test_an_unknown_name_is_told_with_what_is_near(run):
    with pytest.raises(ConfigError, match="resnet_nano"):
        subjects(run, ["resnet_nan"])


def test_a_file_that_holds_no_weights_is_told(run):
    with pytest.raises(DataError, match="not known as a weights file"):
        subjects(run, [str(Path(run.path) / "config.yaml")])

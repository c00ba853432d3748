"""A run sees the masks that it began with, or refuses to go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from unlabel.config import PretrainConfig
from unlabel.data.ingest import ingest
from unlabel.data.layering import write_layer
from unlabel.data.store import Store
from unlabel.data.views import used_layers
from unlabel.errors import ConfigError, DataError
from unlabel.training.run import Run
from unlabel.training.setup import assemble, build
from unlabel.training.split import split_store


def left(store: Store) -> Iterator[np.ndarray]:
    return (np.eye(16, dtype=np.uint8) * 255 for _ in store.ids)


def right(store: Store) -> Iterator[np.ndarray]:
    return (np.eye(16, dtype=np.uint8)[:, ::-1] * 255 for _ in store.ids)


def write(store: Store, make, overwrite: bool = False) -> None:
    quiet = {"options": {}, "workers": 1, "progress": False, "overwrite": overwrite}
    write_layer(store, "foreground", "test", make, **quiet)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    np.save(tmp_path / "x.npy", images)
    ingest([tmp_path / "x.npy"], tmp_path / "store", progress=False, workers=1)
    return Store.open(tmp_path / "store")


def settings(store: Store, **options) -> PretrainConfig:
    small = {"hidden": 16, "out": 8, "large": 2, "small": 0, "negatives": 2}
    return PretrainConfig(
        data=store.path,
        method="relicv2",
        options=small | options,
        model={"name": "resnet_nano", "image_size": 16},
        batch_size=8,
        trackers=(),
    )


def begin(config: PretrainConfig, path: Path) -> Run:
    train, _ = split_store(config)
    layers = used_layers(train, build(config, train).spec)
    return Run.create(path, config, {"data": {"layers": layers}})


def test_background_is_removed_where_there_are_masks(store: Store, tmp_path: Path):
    def coin() -> float:
        crops = build(settings(store), store).spec.crops.values()
        return max(one.background.p if one.background else 0.0 for one in crops)

    assert coin() == 0
    write(store, left)
    assert coin() == 0.1
    always = assemble(begin(settings(store, background=1.0, flip=0.0), tmp_path / "run"))
    crops = torch.cat([views.flatten(0, 1) for views in always.batches[0].views.values()])
    assert ((crops == 0).all(1).float().mean((1, 2)) > 0.5).all()  # a diagonal is left


@pytest.mark.parametrize("change", ["replaced", "removed", "added"])
def test_other_masks_than_the_run_began_with_are_refused(store: Store, tmp_path: Path, change: str):
    if change != "added":
        write(store, left)
    run = begin(settings(store), tmp_path / "run")
    if change == "removed":
        (store.path / "foreground").rename(tmp_path / "aside")
    else:
        write(store, right, overwrite=True)
    with pytest.raises(DataError, match=r"other masks \(foreground\)"):
        assemble(run)


def test_masks_that_the_run_does_not_look_at_may_come_and_go(store: Store, tmp_path: Path):
    run = begin(settings(store, background=0.0), tmp_path / "run")
    write(store, left)
    assemble(run)


def test_removal_without_masks_says_how_to_make_them(store: Store):
    with pytest.raises(ConfigError, match="unlabel saliency"):
        build(settings(store, background=0.5), store)

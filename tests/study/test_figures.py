"""What a finished network is measured by: the same for every run, and never what it learnt from."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from unlabel.analysis.alpha_req import alpha_req
from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig, PretrainConfig
from unlabel.data.ingest import ingest
from unlabel.data.store import Store
from unlabel.study.figures import Judge, flops
from unlabel.study.label_free import VIEWS, _views, label_free


def backbone(**changes):
    arguments = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    torch.manual_seed(0)
    config = ModelConfig(name="vit_nano", image_size=16, patch_size=4, arguments=arguments)
    return build_backbone(config.model_copy(update=changes)).eval()


def labelled(folder: Path) -> PretrainConfig:
    """A store with a test split: red and blue images, 30 of each to learn from and 6 to test."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("test", 6)):
        for name in ("red", "blue"):
            place = folder / "images" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 90, (16, 16, 3), np.uint8)
                pixels[..., 2 if name == "red" else 0] += 150
                cv2.imwrite(str(place / f"{i}.png"), pixels)
    ingest([folder / "images"], folder / "store", progress=False, workers=1)
    return PretrainConfig(data=folder / "store", validation_seed=0)


def test_the_test_split_is_measured_on_where_there_is_one(tmp_path: Path):
    judge = Judge(labelled(tmp_path), ("knn", "linear"))
    assert judge.sets is not None
    assert len(judge.sets.test) == 12
    assert set(judge.sets.test.splits) == {"test"}
    found = judge.figures(backbone())
    assert found["knn"] == found["linear"] == 1  # colours are told apart by any network


def test_held_out_images_are_measured_on_otherwise(shapes_store: Path):
    config = PretrainConfig(data=shapes_store, rows=shapes_store / "none.npy", validation_seed=0)
    judge = Judge(config, ("knn",))
    assert judge.sets is not None
    assert np.array_equal(judge.sets.test.ids, judge.held_out.ids)
    assert not set(judge.sets.train.ids) & set(judge.held_out.ids)


def test_without_labels_there_are_no_accuracies(tmp_path: Path):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 255, (60, 16, 16, 3)))
    images = np.load(tmp_path / "images.npy").astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    ingest([tmp_path / "images.npy"], tmp_path / "store", progress=False, workers=1)
    judge = Judge(PretrainConfig(data=tmp_path / "store"), ("knn", "linear"))
    assert set(judge.figures(backbone())) == {"lidar", "alpha_req"}


def test_label_free_figures_are_those_of_the_held_out_images(shapes_store: Path):
    store, device = Store.open(shapes_store), torch.device("cpu")
    network = backbone()
    found = label_free(network, store, 0, device)
    assert found == label_free(network, store, 0, device)
    views = _views(network, store, 0, device)
    assert views.shape == (len(store), VIEWS, 32)
    assert 1 < found["lidar"] < 32
    pixels = torch.stack([torch.from_numpy(store.image(i).copy()) for i in range(len(store))])
    mean, std = (torch.tensor(v)[:, None, None] for v in (store.info.mean, store.info.std))
    with torch.no_grad():
        features = network.embed((pixels.permute(0, 3, 1, 2) / 255 - mean) / std)
    assert found["alpha_req"] == pytest.approx(alpha_req(features), rel=1e-2)


def test_operations_are_twice_the_multiply_adds():
    """Of a ViT of width d with n tokens: patches, then 12 d^2 n + 2 d n^2 a block."""
    network = backbone()
    d, patches = 32, 16
    tokens = patches + 1
    block = 12 * d * d * tokens + 2 * d * tokens * tokens
    assert flops(network) == 2 * (patches * 4 * 4 * 3 * d + 2 * block)


def test_operations_of_the_studys_swin_are_as_published():
    """6.74 G multiply-adds at 192 pixels, by the formulas of its released code."""
    network = build_backbone(ModelConfig(name="swinv2_s")).eval()
    assert flops(network) / 2e9 == pytest.approx(6.74, rel=0.02)

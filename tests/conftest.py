"""What many tests share: a small store of real structure, made once a session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from unlabel.config import PretrainConfig
from unlabel.data.ingest import ingest

torch.set_num_threads(1)  # bits repeat at a fixed number of threads, and tests run side by side


@pytest.fixture(scope="session")
def shapes_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 96 images of 16 pixels: bars, upright or lying, in three colours, with labels."""
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (96, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(96) % 6
    for image, label in zip(images, labels, strict=True):
        at = rng.integers(2, 12)
        bar = np.s_[at : at + 3, :] if label % 2 else np.s_[:, at : at + 3]
        image[(*bar, label // 2)] = 250
    np.savez(folder / "shapes.npz", images=images, labels=labels)
    ingest([folder / "shapes.npz"], folder / "store", progress=False, workers=1)
    return folder / "store"


@pytest.fixture
def small_run(shapes_store: Path) -> PretrainConfig:
    """Settings of a SplitMask run of 12 steps that takes about a second."""
    return PretrainConfig.model_validate(small_settings(shapes_store))


def small_settings(store: Path) -> dict:
    """The same settings as plain values."""
    return yaml.safe_load(
        f"""
        data: {store}
        method: splitmask
        options: {{vocabulary: 32, tokenizer: k-means, min_block: 1}}
        model:
          name: vit_nano
          image_size: 16
          patch_size: 4
          drop_path: 0.1
          arguments: {{embed_dim: 32, depth: 2, num_heads: 2}}
        optim: {{lr: 1.0e-3, clip_grad: 3.0}}
        steps: 12
        batch_size: 16
        evaluations: 4
        trackers: []
        """
    )

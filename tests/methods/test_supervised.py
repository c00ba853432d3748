from __future__ import annotations

import numpy as np
import pytest
import torch

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig
from unlabel.data.spec import Batch
from unlabel.errors import ConfigError
from unlabel.methods.base import DataInfo, Progress
from unlabel.methods.supervised import Supervised, SupervisedOptions

DATA = DataInfo(images=8, classes=3, mean=(0.5,) * 3, std=(0.25,) * 3)
START = Progress(0, 10)
MODEL = ModelConfig(
    name="vit_tiny_patch16_224",
    image_size=16,
    patch_size=8,
    arguments={"embed_dim": 48, "depth": 1, "num_heads": 3},
)


def supervised(data: DataInfo = DATA, **options) -> Supervised:
    torch.manual_seed(0)
    method = Supervised(build_backbone(MODEL), SupervisedOptions(**options), data)
    # From zero biases and small weights every class would be about as likely.
    torch.nn.init.normal_(method.head.weight)
    return method


def batch_with(labels: list[int] | None, images: int = 4) -> Batch:
    views = torch.randn(images, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    given = None if labels is None else torch.tensor(labels)
    return Batch({"images": views}, {}, torch.arange(images), given)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_accuracy_over_the_labelled_images(smoothing):
    method = supervised(label_smoothing=smoothing).eval()
    batch = batch_with([2, -1, 0, 1])
    losses = method(batch, START)
    with torch.no_grad():
        logits = method.head(method.backbone.embed(batch.views["images"][:, 0])).double().numpy()
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected, hits = 0.0, 0
    for row, label in ((0, 2), (2, 0), (3, 1)):
        expected -= (1 - smoothing) * log_p[row, label] + smoothing * log_p[row].mean()
        hits += int(logits[row].argmax() == label)
    assert losses.total.item() == pytest.approx(expected / 3, rel=1e-5)
    assert losses.scalars["accuracy"].item() == pytest.approx(hits / 3)


@pytest.mark.parametrize("labels", [None, [-1, -1, -1, -1]])
def test_without_labels_it_contributes_zero(labels):
    method = supervised()
    losses = method(batch_with(labels), START)
    losses.total.backward()
    assert losses.total.item() == 0
    assert losses.scalars["accuracy"].item() == 0
    assert all(not p.grad.any() for p in method.parameters() if p.grad is not None)


def test_unlabelled_images_change_nothing():
    method = supervised().eval()
    four, two = batch_with([0, 1, -1, -1]), batch_with([0, 1, -1, -1])
    two.views = {"images": two.views["images"][:2]}
    two.labels = two.labels[:2]
    assert method(four, START).total.item() == pytest.approx(
        method(two, START).total.item(), rel=1e-6
    )


def test_it_learns_its_batch():
    method, batch = supervised(), batch_with([0, 1, 2, 0])
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for _ in range(30):
        losses = method(batch, START)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert losses.scalars["accuracy"].item() == 1


def test_views_follow_the_options():
    crop = supervised(jitter=0.2, scale=(0.5, 1.0), flip=0.0).spec.crops["images"]
    assert (crop.scale, crop.flip) == ((0.5, 1.0), 0.0)
    assert (crop.photometric.brightness, crop.photometric.saturation) == (0.2, 0.2)
    assert supervised(jitter=0.0).spec.crops["images"].photometric.is_identity
    assert supervised().spec.crops["images"].photometric.saturation == 0.4


def test_images_that_are_not_rgb_keep_their_values():
    grey = build_backbone(MODEL.model_copy(update={"in_chans": 1}))
    method = Supervised(grey, SupervisedOptions(), DATA)
    assert method.spec.crops["images"].photometric.is_identity


def test_data_without_labels_is_refused_with_the_way_to_give_them():
    with pytest.raises(ConfigError, match="folder of its name"):
        supervised(DataInfo(images=8, classes=0, mean=(0.5,) * 3, std=(0.25,) * 3))


def test_nothing_waits_for_the_device():
    """On the meta device whatever needs a value on the host raises."""
    with torch.device("meta"):
        batch = Batch(
            {"images": torch.empty(4, 1, 3, 16, 16)}, {}, torch.arange(4), torch.arange(4)
        )
        losses = supervised()(batch, START)
        losses.total.backward()
    assert losses.scalars["accuracy"].shape == ()

"""The whole evaluation: honest figures on honest data, and no way for test images to leak."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_network import network

from unlabel.data.ingest import ingest
from unlabel.data.store import Store
from unlabel.data.views import Batches
from unlabel.errors import DataError, UsageError
from unlabel.evaluation import features, trial
from unlabel.evaluation.evaluate import evaluate
from unlabel.evaluation.finetune import FinetuneConfig
from unlabel.evaluation.linear_sgd import LinearSGDConfig
from unlabel.evaluation.sets import LabelledSets
from unlabel.evaluation.settings import EvaluationConfig
from unlabel.evaluation.subjects import (
    labels_only,
    pretrained,
    raw_pixels,
    untrained,
)

QUICK = EvaluationConfig(
    labels=("2", "all"),
    seeds=2,
    finetune=FinetuneConfig(steps=2, batch_size=4),
    linear_sgd=LinearSGDConfig(epochs=2),
)


def store_of(folder, images, labels, classes=None):
    folder.mkdir()
    np.savez(folder / "x.npz", images=images, labels=labels)
    ingest([folder / "x.npz"], folder / "store", progress=False, workers=1)
    return Store.open(folder / "store")


def noise(seed, count=60, classes=4):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    return images, rng.permutation(np.arange(count) % classes)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    return [store_of(folder / name, *noise(i)) for i, name in enumerate(("train", "test"))]


@pytest.fixture(scope="module")
def shapes(shapes_store):
    return Store.open(shapes_store)


def everyone():
    return {
        "pre-trained": pretrained(network(seed=7)),
        "untrained": untrained(network()),
        "labels only": labels_only(network()),
        "raw pixels": raw_pixels(16),
    }


def test_every_subject_by_every_protocol_that_it_takes_part_in(shapes):
    results = evaluate(everyone(), shapes, settings=QUICK, progress=False)
    kinds = {(r.subject, r.protocol, r.labels) for r in results}
    sizes = ("2", "all")
    both = {
        (s, p, n) for s in ("pre-trained", "untrained") for p in ("knn", "linear") for n in sizes
    }
    raw = {("raw pixels", p, n) for p in ("knn", "linear") for n in sizes}
    tuned = {(s, "finetune", n) for s in ("pre-trained", "labels only") for n in sizes}
    assert kinds == both | raw | tuned
    few, everything = results.get("pre-trained", "knn", "2"), results.get("untrained", "knn", "all")
    assert (few.seeds, few.train_images) == (2, 12)
    assert (everything.seeds, everything.train_images) == (1, 96 - everything.images)
    assert {r.test for r in results} == {few.test}
    assert results.difference("pre-trained", "labels only", "finetune", "2").gain is not None


def test_the_sgd_probe_and_repeated_full_fine_tuning_can_be_asked_for(shapes):
    settings = QUICK.model_copy(update={"protocols": ("linear-sgd", "finetune"), "seeds_all": 2})
    results = evaluate({"x": pretrained(network(seed=7))}, shapes, settings=settings)
    assert {r.protocol for r in results} == {"linear-sgd", "finetune"}
    assert results.get("x", "finetune", "all").seeds == 2


def test_raw_pixels_tell_shapes_apart_and_a_second_run_repeats_the_first(shapes):
    settings = EvaluationConfig(protocols=("knn", "linear"), labels=("all",))
    a, b = (
        evaluate({"raw": raw_pixels(16)}, shapes, settings=settings, progress=False)
        for _ in range(2)
    )
    assert a.get("raw", "linear", "all").accuracy > 0.5
    assert [r.as_dict() for r in a] == [r.as_dict() for r in b]


def test_features_are_computed_once_a_set(shapes, monkeypatch):
    calls = []
    original = trial.extract
    monkeypatch.setattr(trial, "extract", lambda *a, **k: calls.append(1) or original(*a, **k))
    settings = EvaluationConfig(protocols=("knn", "linear"), labels=("1", "2", "all"))
    evaluate({"untrained": untrained(network())}, shapes, settings=settings, progress=False)
    assert len(calls) == 2


def test_only_images_that_some_subset_uses_are_embedded(shapes, monkeypatch):
    sizes = []
    original = features.embed_all

    def counted(embed, images, device):
        sizes.append(len(images))
        return original(embed, images, device)

    monkeypatch.setattr(features, "embed_all", counted)
    settings = EvaluationConfig(protocols=("knn",), labels=("1",), seeds=2)
    evaluate({"untrained": untrained(network())}, shapes, settings=settings, progress=False)
    assert sizes[0] <= 12


def test_on_noise_nothing_beats_chance(noisy):
    settings = QUICK.model_copy(
        update={"labels": ("all",), "finetune": FinetuneConfig(steps=30, batch_size=16)}
    )
    for result in evaluate(everyone(), *noisy, settings=settings, progress=False):
        assert result.low < 0.25 < result.high, result


def test_planted_test_images_are_left_out_of_training(noisy, tmp_path):
    train, test = noisy
    (ours, our_labels), (theirs, their_labels) = noise(0), noise(1)
    leaky = store_of(
        tmp_path / "leaky",
        np.concatenate([ours, theirs[:30]]),
        np.concatenate([our_labels, their_labels[:30]]),
    )
    settings = EvaluationConfig(protocols=("knn", "linear"), labels=("all",), k=1)
    subject = {"raw": raw_pixels(16)}
    with_leak = evaluate(subject, leaky, test, settings, progress=False)
    without = evaluate(subject, train, test, settings, progress=False)
    for ours, theirs in zip(with_leak, without, strict=True):
        assert ours.accuracy == theirs.accuracy
        assert ours.train_images == 60
        assert ours.details["left_out"] == 30


def test_training_on_the_test_set_itself_is_refused(noisy):
    with pytest.raises(DataError, match="All 60 training images"):
        evaluate(everyone(), noisy[0], noisy[0], progress=False)


def test_no_batch_ever_holds_a_test_image(shapes, monkeypatch):
    seen = set()
    original = Batches.__getitem__

    def spied(self, number):
        batch = original(self, number)
        seen.update(batch.ids.tolist())
        return batch

    monkeypatch.setattr(Batches, "__getitem__", spied)
    settings = QUICK.model_copy(update={"protocols": ("finetune", "linear-sgd")})
    evaluate({"x": pretrained(network())}, shapes, settings=settings, progress=False)
    sets = LabelledSets.of(shapes, None, 0)
    assert seen
    assert not seen & set(sets.test.ids.tolist())


def test_fine_tuning_starts_anew_with_every_seed(shapes):
    backbone = network()
    before = {name: p.clone() for name, p in backbone.named_parameters()}
    evaluate({"x": pretrained(backbone)}, shapes, settings=QUICK, progress=False)
    assert all(torch.equal(p, before[name]) for name, p in backbone.named_parameters())


def test_images_without_a_label_are_left_out(tmp_path):
    images, _ = noise(0)
    (tmp_path / "x").mkdir()
    np.savez(tmp_path / "x" / "x.npz", images=images)
    ingest([tmp_path / "x" / "x.npz"], tmp_path / "store", progress=False, workers=1)
    with pytest.raises(DataError, match="sub-folder a class"):
        evaluate(everyone(), Store.open(tmp_path / "store"), progress=False)


def test_classes_are_matched_by_name(tmp_path):
    images, labels = noise(0, classes=3)
    train = store_of(tmp_path / "a", images, labels)
    test = store_of(tmp_path / "b", images[:, ::-1], labels + 1)
    unknown = [name for name in test.info.classes if name not in train.info.classes]
    with pytest.raises(DataError, match=f"lacks: {unknown[0]}. Classes of the training set"):
        LabelledSets.of(train, test, 0)
    some = test.select(labels < 2)
    sets = LabelledSets.of(train, some, 0)
    named = [train.info.classes[i] for i in sets.truth]
    assert named == [test.info.classes[i] for i in some.labels]


def test_other_channels_are_refused(tmp_path, shapes):
    six = store_of(
        tmp_path / "six",
        np.zeros((8, 16, 16, 6), np.uint8) + np.arange(8, dtype=np.uint8)[:, None, None, None],
        np.arange(8) % 2,
    )
    with pytest.raises(DataError, match="takes images of 3 channels, and these have 6"):
        evaluate({"x": untrained(network())}, six, progress=False)
    with pytest.raises(DataError, match="6 channels of uint8, test images 3"):
        LabelledSets.of(six, shapes, 0)


def test_nobody_to_measure_is_a_usage_error(shapes):
    settings = EvaluationConfig(protocols=("finetune",))
    with pytest.raises(UsageError, match="finetune"):
        evaluate({"raw": raw_pixels(16)}, shapes, settings=settings, progress=False)


def test_grey_images_stored_as_rgb_count_once():
    grey = torch.rand(5, 1, 16).expand(5, 3, 16).flatten(1)
    colour = torch.rand(4, 48)
    train, test = trial._without_copies(grey, grey[:2], 3)
    assert train.shape == (5, 16)
    assert test.shape == (2, 16)
    assert trial._without_copies(grey, colour, 3)[0].shape == (5, 48)

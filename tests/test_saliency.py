"""The verb ``saliency``: layers from kinds by name, and their page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

import unlabel
from unlabel.backbones.build import build_backbone
from unlabel.cli import run
from unlabel.config import ModelConfig
from unlabel.data.ingest import ingest
from unlabel.data.store import Store
from unlabel.errors import DataError, InputMissing, OutputExists, UsageError
from unlabel.export import export_backbone
from unlabel.report.saliency_page import write_saliency_page
from unlabel.saliency import find_kinds, saliency

IMAGES = 12


def bright_disc(i: int, dtype: str = "uint8", channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(i)
    y, x = np.mgrid[:80, :64]
    disc = np.hypot(y - rng.integers(30, 50), x - rng.integers(25, 40)) < 16
    ground = rng.normal(70, 6, (80, 64, channels))
    image = np.where(disc[..., None], 220.0, ground)
    most = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    return (image / 255 * most).astype(dtype), disc


def store_of(folder: Path, dtype: str = "uint8", channels: int = 3) -> Store:
    images = np.stack([bright_disc(i, dtype, channels)[0] for i in range(IMAGES)])
    np.save(folder / "x.npy", images)
    ingest([folder / "x.npy"], folder / "store", progress=False, workers=1)
    return Store.open(folder / "store")


@pytest.fixture
def store(tmp_path) -> Store:
    return store_of(tmp_path)


def overlaps(store: Store) -> list[float]:
    found = []
    for i in range(IMAGES):
        mask, disc = store.layer("foreground").mask(i), bright_disc(i)[1]
        kept = cv2.resize(mask, disc.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
        found.append((kept & disc).sum() / (kept | disc).sum())
    return found


@pytest.mark.parametrize(
    ("dtype", "channels"), [("uint8", 3), ("uint16", 1), ("uint16", 5), ("float32", 2)]
)
def test_foreground_and_segments_are_added(tmp_path, dtype, channels):
    store = store_of(tmp_path, dtype, channels)
    told = saliency(str(store.path), "background", "felzenszwalb", preview=True, workers=1)
    assert min(overlaps(store)) > 0.8
    assert store.layer("segments").mask(0).max() >= 1
    assert store.layer("foreground").info.kind == "background"
    assert "Foreground of 12 images by background" in str(told)
    assert (store.path / "saliency.html").is_file()
    with pytest.raises(OutputExists, match="--overwrite"):
        saliency(str(store.path), "background", None)
    saliency(str(store.path), "spectral", None, overwrite=True, workers=1)
    assert store.layer("foreground").info.kind == "spectral"


@pytest.mark.parametrize("name", ["vit_nano", "resnet_nano"])
def test_an_exported_backbone_makes_masks_in_batches(store, tmp_path, name):
    arguments = {"global_pool": "token", "fc_norm": False} if name == "vit_nano" else {}
    backbone = build_backbone(ModelConfig(name=name, image_size=32, arguments=arguments))
    export_backbone(backbone, tmp_path / "net", mean=(0.5,) * 3, std=(0.2,) * 3, notes={})
    told = saliency(str(store.path), f"attention:{tmp_path / 'net'}", None)
    info = store.layer("foreground").info
    assert info.kind == "attention"
    assert info.options["of"] == "net"
    assert len(info.options["weights"]) == 16
    assert "by attention" in str(told)
    mask = next(
        m for row in range(IMAGES) if (m := store.layer("foreground").mask(row)) is not None
    )
    assert mask.shape == (80, 64)


def test_images_of_other_channels_than_the_backbones_are_refused(tmp_path):
    store = store_of(tmp_path, "uint16", 5)
    backbone = build_backbone(ModelConfig(name="resnet_nano", image_size=32))
    export_backbone(backbone, tmp_path / "net", mean=(0.5,) * 3, std=(0.2,) * 3, notes={})
    with pytest.raises(DataError, match="3 channels"):
        saliency(str(store.path), f"attention:{tmp_path / 'net'}", None)


@pytest.mark.parametrize(
    ("kind", "error", "match"),
    [
        ("spectrel", UsageError, "Did you mean spectral"),
        ("attention", UsageError, "attention:RUN_OR_FOLDER"),
        ("spectral:3", UsageError, "There is no saliency"),
        ("attention:nowhere", InputMissing, "neither a run nor"),
        ("onnx:nowhere.onnx", InputMissing, "no ONNX file"),
    ],
)
def test_kinds_that_there_are_not(kind, error, match):
    with pytest.raises(error, match=match):
        find_kinds(kind, None)


def test_segments_that_there_are_not():
    with pytest.raises(UsageError, match="felzenszwalb"):
        find_kinds(None, "slic")


def test_asking_for_nothing_says_what_to_ask_for(store):
    with pytest.raises(UsageError, match="--kind KIND"):
        saliency(str(store.path), None, None)
    with pytest.raises(DataError, match="no masks to show"):
        saliency(str(store.path), None, None, preview=True)


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]


def test_the_page_shows_every_layer_and_needs_nothing_else(store):
    saliency(str(store.path), "background", None, workers=1)
    alone = Page(write_saliency_page(store).read_text())
    assert alone.tags.count("img") == 3 * IMAGES
    saliency(str(store.path), None, "felzenszwalb", workers=1)
    text = write_saliency_page(store).read_text()
    page = Page(text)
    assert page.tags.count("img") == 4 * IMAGES
    assert all(source.startswith("data:image/") for source in page.sources)
    assert "script" not in page.tags
    assert "prefers-color-scheme: dark" in text
    assert len(re.findall(r"\d+% foreground, \d+ segments", text)) == IMAGES


def test_the_command_line_makes_layers_with_a_store_and_after_it(tmp_path, capsys):
    images = np.stack([bright_disc(i)[0] for i in range(IMAGES)])
    np.save(tmp_path / "x.npy", images)
    out = str(tmp_path / "store")
    made = ["ingest", str(tmp_path / "x.npy"), "--out", out, "--workers", "1"]
    assert run([*made, "--saliency", "backgrund"]) == 2
    assert "Did you mean background" in " ".join(capsys.readouterr().err.split())
    assert not Path(out).exists()
    assert run([*made, "--saliency", "background", "--segments", "felzenszwalb"]) == 0
    assert "Foreground of 12 images by background." in capsys.readouterr().out
    assert Store.open(out).layers == {"foreground", "segments"}
    assert run(["saliency", out, "--kind", "spectral"]) == 73
    assert run(["saliency", out, "--kind", "spectral", "--overwrite", "--preview"]) == 0
    assert "saliency.html" in capsys.readouterr().out
    assert run(["saliency", out]) == 2


def test_the_verb_stays_a_function_beside_its_module():
    assert callable(unlabel.saliency)


def test_a_new_store_stays_if_its_masks_are_interrupted(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "x.npy", np.stack([bright_disc(i)[0] for i in range(IMAGES)]))
    out = tmp_path / "store"

    def stop(*_):
        raise KeyboardInterrupt

    made = ["ingest", str(tmp_path / "x.npy"), "--out", str(out), "--saliency", "spectral"]
    with monkeypatch.context() as patched:
        patched.setattr("unlabel.data.saliency.kinds.to_mask", stop)
        assert run([*made, "--workers", "1"]) == 130
    assert "unlabel saliency" in " ".join(capsys.readouterr().err.split())
    assert run(["saliency", str(out), "--kind", "spectral", "--workers", "1"]) == 0
    assert Store.open(out).layers == {"foreground"}

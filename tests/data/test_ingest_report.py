"""What an ingest says of itself: counts that add up to the files on disk, classes and splits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unlabel.data import ingest as ingesting
from unlabel.data.ingest import ingest
from unlabel.data.ingest_report import REPORT, IngestReport


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two splits, three classes of unequal size, two copies, a broken file and a note."""
    rng = np.random.default_rng(0)
    for split, each in (("train", (5, 4, 3)), ("test", (2, 1, 1))):
        for name, count in zip(("ant", "bee", "cat"), each, strict=True):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    first = tmp_path / "photos" / "train" / "ant" / "0.png"
    for copy in ("x.png", "y.png"):
        (first.parent / copy).write_bytes(first.read_bytes())
    (first.parent / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (first.parent / "notes.txt").write_text("no image")
    return tmp_path / "photos"


@pytest.mark.parametrize("dedupe", [False, True])
def test_kept_refused_and_dropped_add_up_to_the_files_on_disk(photos: Path, dedupe: bool):
    store = photos.parent / "store"
    report = ingest([photos], store, dedupe=dedupe, workers=1, progress=False)
    on_disk = sum(path.is_file() for path in photos.rglob("*"))
    assert report.found == on_disk == 20
    assert report.images + len(report.refused) + report.dropped == on_disk
    assert (report.images, len(report.refused), report.dropped) == (18 - 2 * dedupe, 2, 2 * dedupe)
    assert report.classes == {"ant": 9 - 2 * dedupe, "bee": 5, "cat": 4}
    assert report.splits == {"train": 14 - 2 * dedupe, "test": 4}
    assert str(IngestReport.read(store)) == str(report)


def test_the_report_is_readable(photos: Path):
    store = photos.parent / "store"
    said = str(ingest([photos], store, dedupe=True, workers=1, progress=False)).splitlines()
    assert said[:4] == [
        f"20 found: 16 images kept in {store}, 2 refused, 2 dropped as duplicates.",
        "3 classes of 4 to 7 images: ant, bee, cat.",
        "Splits: test 4, train 12.",
        "2 refused:",
    ]


def test_images_without_a_label_are_counted_and_names_are_safe():
    classes = {f"class\x1b{i}": 2 for i in range(20)}
    said = str(IngestReport("store", found=50, images=50, classes=classes))
    assert "20 classes of 2 images: class\\x1b0, " in said
    assert "and 8 more." in said
    assert "10 images have no label." in said
    assert "\x1b" not in said


def test_a_report_of_an_earlier_version_is_passed_over(tmp_path: Path):
    assert IngestReport.read(tmp_path) is None
    (tmp_path / REPORT).write_text(json.dumps({"store": "old", "images": 3}))
    assert IngestReport.read(tmp_path) is None


def test_ctrl_c_says_that_the_same_command_goes_on(photos: Path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ingesting, "write_parts", interrupted)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        ingest([photos], photos.parent / "store", progress=False)

"""Plain folders become cached stores: once, again after changes, and by one process of several."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from unlabel.data import cache
from unlabel.data.cache import open_or_ingest
from unlabel.data.ingest import ingest
from unlabel.data.store import Store
from unlabel.errors import InputMissing


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setenv("UNLABEL_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "my photos"
    root.mkdir()
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.png")
    return root


def test_a_folder_is_ingested_once(photos, monkeypatch):
    first = open_or_ingest([photos])
    monkeypatch.setattr(cache, "ingest", None)
    again = open_or_ingest([photos])
    assert (again.path, again.fingerprint) == (first.path, first.fingerprint)
    assert len(again) == 40
    assert first.path.name.startswith("my-photos-")


def test_a_folder_is_ingested_once_however_it_is_named(photos, monkeypatch):
    first = open_or_ingest([photos])
    monkeypatch.setattr(cache, "ingest", None)
    monkeypatch.chdir(photos)
    assert open_or_ingest(["."]).path == first.path
    assert open_or_ingest([f"../{photos.name}/"]).path == first.path


def test_several_files_are_named_after_their_folder(photos):
    assert open_or_ingest(sorted(photos.glob("*.png"))).path.name.startswith("my-photos-")


def test_a_change_is_seen(photos):
    first = open_or_ingest([photos])
    os.utime(photos / "3.png", ns=(1, 1))
    assert open_or_ingest([photos]).path != first.path
    (photos / "3.png").unlink()
    assert len(open_or_ingest([photos])) == 39
    assert len(Store.open(first.path)) == 40


def test_large_photographs_are_shrunk(photos):
    Image.new("RGB", (900, 600), "red").save(photos / "large.jpg")
    store = open_or_ingest([photos])
    large = store.names().index("large.jpg")
    assert store.sizes[large].tolist() == [cache.SHORT_SIDE, cache.SHORT_SIDE * 3 // 2]


def test_a_store_is_opened_as_it_is(photos, tmp_path):
    ingest([photos], tmp_path / "store", workers=1, progress=False)
    assert open_or_ingest([tmp_path / "store"]).path == tmp_path / "store"
    assert not (tmp_path / "cache").exists()


def test_nothing_and_nowhere_are_said(photos):
    with pytest.raises(InputMissing, match="No images were named"):
        open_or_ingest([])
    with pytest.raises(InputMissing, match="nothing at"):
        open_or_ingest([photos / "missing"])


def test_of_several_processes_one_ingests(photos):
    code = (
        "import sys; from unlabel.data.cache import open_or_ingest\n"
        "print(open_or_ingest(sys.argv[1:]).fingerprint)"
    )
    command = [sys.executable, "-c", code, str(photos)]
    ranks = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    ends = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0, 0], ends
    assert len({out for out, _ in ends}) == 1
    assert sum("Ingesting" in err for _, err in ends) == 1

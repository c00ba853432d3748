"""Ingest as a whole: what comes out, what is refused, and what it never overwrites."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from photo_sets import copies, everything, fill, image, smooth
from PIL import Image

from unlabel.data import parts
from unlabel.data.ingest import ingest
from unlabel.data.store import JPEG, PNG, RAW, Store
from unlabel.errors import DataError, OutputExists


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def undisturbed(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("stores") / "store"
    ingest([photos], out, workers=1, progress=False)
    return out


def test_every_file_is_in_the_store_or_in_the_report(photos, undisturbed):
    store = Store.open(undisturbed)
    report = json.loads((undisturbed / "report.json").read_text())
    assert len(store) == 100
    assert [name for name, _ in report["refused"]] == ["class 0/broken.jpg"]
    for i, name in enumerate(store.names()):
        np.testing.assert_array_equal(store.image(i), np.asarray(Image.open(photos / name)))
        assert store.info.classes[store.labels[i]] == name.split("/")[0]


def test_two_processes_make_the_same_store(photos, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr("unlabel.data.processes.SOON", -1)
    monkeypatch.setattr("unlabel.data.processes.WORTH", -1)
    ingest([photos], tmp_path / "store", workers=2, progress=False)
    assert everything(tmp_path / "store") == everything(undisturbed)
    assert os.listdir(tmp_path) == ["store"]


def test_mean_and_spread_are_those_of_all_pixels(photos, undisturbed):
    pixels = [np.asarray(Image.open(p)).reshape(-1, 3) for p in photos.glob("*/*.png")]
    direct = np.concatenate(pixels) / 255
    info = Store.open(undisturbed).info
    np.testing.assert_allclose(info.mean, direct.mean(0), atol=1e-6)
    np.testing.assert_allclose(info.std, direct.std(0), atol=1e-6)


def test_how_images_are_stored(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    Image.fromarray(image(0, 64, 90)).save(root / "small.png")
    Image.fromarray(image(1, 65, 90)).save(root / "large.png")
    Image.fromarray(smooth(101, 83)).save(root / "photo.jpg")
    Image.fromarray(smooth(200, 301, 2)).save(root / "wide.jpg")
    ingest([root], tmp_path / "full", workers=1, progress=False)
    full = Store.open(tmp_path / "full")
    kinds = dict(zip(full.names(), full.column("kind"), strict=True))
    assert kinds == {"small.png": RAW, "large.png": PNG, "photo.jpg": JPEG, "wide.jpg": JPEG}
    rows = {name: i for i, name in enumerate(full.names())}
    np.testing.assert_array_equal(full.image(rows["large.png"]), image(1, 65, 90))
    stored = bytes(full.files.images[rows["photo.jpg"]])
    assert stored == (root / "photo.jpg").read_bytes()

    ingest([root], tmp_path / "half", short_side=100, workers=1, progress=False)
    half = Store.open(tmp_path / "half")
    assert half.sizes[rows["wide.jpg"]].tolist() == [100, 150]
    assert half.sizes[rows["photo.jpg"]].tolist() == [101, 83]
    assert bytes(half.files.images[rows["photo.jpg"]]) == stored
    assert half.fingerprint != full.fingerprint
    import cv2

    expected = cv2.resize(
        full.image(rows["wide.jpg"]), (150, 100), interpolation=cv2.INTER_AREA
    ).astype(int)
    assert np.abs(half.image(rows["wide.jpg"]) - expected).mean() < 2


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_scientific_images_come_back_as_they_are(tmp_path, dtype):
    stack = (np.random.default_rng(0).random((6, 20, 30, 5)) * 60_000).astype(dtype)
    np.save(tmp_path / "stack.npy", stack)
    ingest([tmp_path / "stack.npy"], tmp_path / "store", workers=1, progress=False)
    store = Store.open(tmp_path / "store")
    assert (store.info.channels, store.info.dtype) == (5, dtype)
    for i in range(6):
        np.testing.assert_array_equal(store.image(i), stack[i])
    scale = 65_535 if dtype == "uint16" else 1
    np.testing.assert_allclose(store.info.mean, stack.mean((0, 1, 2), "f8") / scale, rtol=1e-4)


def test_images_of_another_kind_are_refused(tmp_path):
    for i in range(5):
        np.save(tmp_path / f"{i}.npy", np.full((9, 9), i, np.uint16))
    Image.fromarray(image(0)).save(tmp_path / "photo.png")
    report = ingest([tmp_path], tmp_path / "out" / "store", workers=1, progress=False)
    assert report.images == 5
    assert report.refused[0][0] == "photo.png"
    assert "of another kind: 3 x uint8 among images of 1 x uint16" in report.refused[0][1]


def test_a_broken_image_costs_no_other(tmp_path):
    for i in range(40):
        Image.fromarray(smooth(80, 90, i)).save(tmp_path / f"{i}.jpg")
    half = tmp_path / "7.jpg"
    half.write_bytes(half.read_bytes()[:700])
    (tmp_path / "8.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    report = ingest([tmp_path], tmp_path / "out" / "store", workers=1, progress=False)
    reasons = dict(report.refused)
    assert report.images == 38
    assert set(reasons) == {"7.jpg", "8.jpg", "notes.txt"}
    assert reasons["7.jpg"].startswith(("truncated", "damaged"))
    assert reasons["8.jpg"] == "empty file"


def test_names_of_any_bytes_are_stored_and_printed(tmp_path):
    names = [
        b"\xff.png",
        b"<script>alert(1)<",
        b"a\nb.png",
        "ж".encode() + b".png",
        b"\x1b[31m.png",
    ]
    root = tmp_path / "in"
    for i, name in enumerate(names):
        folder = os.path.join(os.fsencode(root), b"c\xfe%d" % (i % 2))
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, name), "wb") as file:
            Image.fromarray(image(i)).save(file, "PNG")
    with open(os.path.join(os.fsencode(root), b"c\xfe0", b"\xfd\n.jpg"), "wb"):
        pass
    report = ingest([root], tmp_path / "store", workers=1, progress=False)
    store = Store.open(tmp_path / "store")
    found = {name.split("/", 1)[1] for name in store.names()}
    assert found == {"\\xff.png", "<script>alert(1)<", "a\nb.png", "ж.png", "\x1b[31m.png"}
    assert store.info.classes == ("c\\xfe0", "c\\xfe1")
    assert "\x1b" not in str(report)
    assert len(str(report).splitlines()) == 4
    str(report).encode()


def test_duplicates_are_reported_and_dropped(tmp_path):
    root = copies(tmp_path / "in")
    kept = ingest([root], tmp_path / "all", workers=1, progress=False)
    assert kept.exact == [("03.png", "z exact.bmp")]
    assert kept.near == [("05.png", "z near.jpg")]
    assert (kept.images, kept.dropped) == (42, 0)
    report = ingest([root], tmp_path / "once", dedupe=True, workers=1, progress=False)
    assert (report.images, report.dropped) == (40, 2)
    assert (report.exact, report.near) == (kept.exact, kept.near)
    store = Store.open(tmp_path / "once")
    assert store.names() == [f"{i:02d}.png" for i in range(40)]
    pixels = [np.asarray(Image.open(root / name)) for name in store.names()]
    for i, picture in enumerate(pixels):
        np.testing.assert_array_equal(store.image(i), picture)
    np.testing.assert_allclose(store.info.mean, np.mean(pixels, (0, 1, 2)) / 255, atol=1e-6)
    np.testing.assert_allclose(store.info.std, np.std(pixels, (0, 1, 2)) / 255, atol=1e-6)
    assert sorted(os.listdir(tmp_path)) == ["all", "in", "once"]


def test_what_is_dropped_counts_for_nothing(tmp_path):
    """Nine equal white pictures beside a small black one."""
    root = tmp_path / "in"
    root.mkdir()
    for i in range(9):
        Image.new("RGB", (200, 100), "white").save(root / f"white {i}.png")
    Image.new("RGB", (40, 30)).save(root / "black.png")
    ingest([root], tmp_path / "store", dedupe=True, workers=1, progress=False)
    info = Store.open(tmp_path / "store").info
    assert (info.images, info.min_side, info.median_side) == (2, 30, 65)
    np.testing.assert_allclose(info.mean, 20_000 / 21_200, atol=1e-6)


def test_images_in_another_store_are_named(tmp_path):
    root = copies(tmp_path / "in")
    ingest([root], tmp_path / "train", workers=1, progress=False)
    other = tmp_path / "other"
    other.mkdir()
    Image.open(root / "09.png").save(other / "same.jpg", quality=92)
    Image.fromarray(image(999, 70, 90)).save(other / "new.png")
    train = tmp_path / "train"
    report = ingest([other], tmp_path / "test", against=[train], workers=1, progress=False)
    assert report.overlap == {str(train): [("same.jpg", "09.png")]}
    assert "1 images also stand in" in str(report)


def test_parts_are_written_in_bounded_chunks(photos, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "CHUNK_BYTES", 5000)
    ingest([photos], tmp_path / "store", workers=1, progress=False)
    assert len(Store.open(tmp_path / "store").files.images.starts) > 20
    assert everything(tmp_path / "store")["image"] == everything(undisturbed)["image"]
    last = Store.open(tmp_path / "store")
    for i in (0, 1, 50, 98, 99):
        np.testing.assert_array_equal(last.image(i), Store.open(undisturbed).image(i))


def test_nothing_is_overwritten_unasked(photos, tmp_path):
    out = tmp_path / "store"
    ingest([photos], out, workers=1, progress=False)
    before = everything(out)
    with pytest.raises(OutputExists, match="--overwrite"):
        ingest([photos], out, progress=False)
    assert everything(out) == before
    ingest([photos], out, short_side=10, overwrite=True, workers=1, progress=False)
    assert Store.open(out).info.min_side == 10
    assert os.listdir(tmp_path) == ["store"]


@pytest.mark.parametrize("store", [False, True])
def test_only_a_store_and_nothing_beside_it_is_replaced(photos, tmp_path, store):
    out = tmp_path / "store"
    if store:
        ingest([photos], out, workers=1, progress=False)
    out.mkdir(exist_ok=True)
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputExists, match="Choose another"):
        ingest([photos], out, overwrite=True, progress=False)
    assert (out / "thesis.tex").read_text() == "years of work"


def test_a_folder_of_somebody_elses_is_not_worked_in(photos, tmp_path):
    other = tmp_path / "store.partial"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputExists, match="something else"):
        ingest([photos], tmp_path / "store", progress=False)
    assert (other / "thesis.tex").exists()


def test_two_at_once_on_one_store(photos, tmp_path):
    from filelock import FileLock

    held = FileLock(tmp_path / "store.partial.lock")
    with held, pytest.raises(OutputExists, match="Another process"):
        ingest([photos], tmp_path / "store", progress=False)


def test_nothing_usable_says_why_and_leaves_nothing(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    with pytest.raises(DataError, match=r"No usable image was found.* Read are \.bmp, .*\.jpg, "):
        ingest([root], tmp_path / "store", progress=False)
    (root / "a.jpg").write_bytes(b"no")
    (root / "b.txt").write_bytes(b"no")
    with pytest.raises(DataError, match=r"2 not an image, such as"):
        ingest([root], tmp_path / "store", progress=False)
    assert os.listdir(tmp_path) == ["in"]

"""Ingest as a whole: what comes out, what is refused, and that no kill or full disk spoils it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from unlabel.data import parts
from unlabel.data.ingest import ingest
from unlabel.data.store import JPEG, PNG, RAW, Store
from unlabel.errors import DataError, InputMissing, OutputExists, StorageError

COLUMNS = ("kind", "height", "width", "label", "hash", "sketch")


def image(seed, height=20, width=24):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height, width, seed=0):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y + 40 * seed) % 256], 2).astype(
        "u1"
    )


def fill(root, count=100, classes=2):
    for i in range(count):
        path = root / f"class {i % classes}" / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image(i)).save(path, compress_level=1)
    (root / "class 0" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def undisturbed(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("stores") / "store"
    ingest([photos], out, workers=1, progress=False)
    return out


def everything(path):
    """All that a store holds, without its own name."""
    store = Store.open(path)
    values = {name: store.column(name).tolist() for name in COLUMNS}
    values |= {name: store.files.values(name) for name in ("image", "split", "name", "thumbnail")}
    report = json.loads((path / "report.json").read_text())
    del report["store"]
    return values | {"info": store.info, "report": report, "files": sorted(os.listdir(path))}


def test_every_file_is_in_the_store_or_in_the_report(photos, undisturbed):
    store = Store.open(undisturbed)
    report = json.loads((undisturbed / "report.json").read_text())
    assert len(store) == 100
    assert [name for name, _ in report["refused"]] == ["class 0/broken.jpg"]
    for i, name in enumerate(store.names()):
        np.testing.assert_array_equal(store.image(i), np.asarray(Image.open(photos / name)))
        assert store.info.classes[store.labels[i]] == name.split("/")[0]


def test_two_processes_make_the_same_store(photos, undisturbed, tmp_path):
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


# Duplicates -------------------------------------------------------------------------------------


def copies(root):
    root.mkdir()
    for i in range(40):
        blocks = Image.fromarray(image(i, 7, 9)).resize((90, 70), Image.Resampling.BICUBIC)
        blocks.save(root / f"{i:02d}.png")
    Image.open(root / "03.png").save(root / "z exact.bmp")
    Image.open(root / "05.png").save(root / "z near.jpg", quality=92)
    return root


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
    for i, name in enumerate(store.names()):
        np.testing.assert_array_equal(store.image(i), np.asarray(Image.open(root / name)))
    assert sorted(os.listdir(tmp_path)) == ["all", "in", "once"]


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


# Interruption -----------------------------------------------------------------------------------

CHILD = """
import os, signal, sys
from pathlib import Path
from unlabel.data import finish, ingest, parts

where, source, out, dedupe = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4] == "dedupe"
die = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)

def before(owner, name, when=lambda *args: True):
    real = getattr(owner, name)
    def through(*args, **kwargs):
        if when(*args):
            die()
        return real(*args, **kwargs)
    setattr(owner, name, through)

if where == "between part 1 and its note":
    before(parts, "write_text_atomic", lambda path, text: path.name == "note-00001.json")
elif where == "within part 2":
    encoded = [0]
    real = parts.Encoder.row
    def row(self, item, found):
        encoded[0] += 1
        if encoded[0] == 80:
            die()
        return real(self, item, found)
    parts.Encoder.row = row
elif where == "before the parts get their name":
    before(os, "replace", lambda source, target: str(target).endswith("part-00001.arrow"))
elif where == "before the first part":
    before(parts, "write_part")
elif where == "before the manifest":
    before(finish, "write_text_atomic", lambda path, text: path.name == "manifest.json")
elif where == "before the last rename":
    before(finish, "publish")
elif where == "after the last rename":
    before(finish, "_clear")
elif where == "while duplicates are dropped":
    before(finish, "copy_part", lambda table, target, keep: target.name == "part-00001.arrow")
ingest.ingest([source], Path(out), workers=1, progress=False, dedupe=dedupe)
"""


def killed(where, source, out, dedupe=False):
    words = [sys.executable, "-c", CHILD, where, str(source), str(out), "dedupe" * dedupe]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def decoded_in(monkeypatch, action):
    """How many items ``action`` decodes for parts."""
    count, real = [0], parts.read
    with monkeypatch.context() as patch:

        def counting(*args):
            count[0] += 1
            return real(*args)

        patch.setattr(parts, "read", counting)
        action()
    return count[0]


@pytest.mark.parametrize(
    ("where", "again"),
    [
        ("before the first part", 101),
        ("before the parts get their name", 69),
        ("between part 1 and its note", 69),
        ("within part 2", 37),
        ("before the manifest", 0),
        ("before the last rename", 0),
    ],
)
def test_killed_and_run_again_is_as_never_killed(
    photos, undisturbed, tmp_path, monkeypatch, where, again
):
    out = tmp_path / "store"
    killed(where, photos, out)
    assert not out.exists()
    with pytest.raises((InputMissing, DataError)):
        Store.open(out)
    if again:
        with pytest.raises(DataError, match="not a finished store"):
            Store.open(tmp_path / "store.partial")
    run = lambda: ingest([photos], out, workers=1, progress=False)  # noqa: E731
    assert decoded_in(monkeypatch, run) == again
    assert everything(out) == everything(undisturbed)
    assert os.listdir(tmp_path) == ["store"]


def test_killed_after_the_last_rename_the_store_is_whole(photos, undisturbed, tmp_path):
    out = tmp_path / "store"
    killed("after the last rename", photos, out)
    assert len(Store.open(out)) == 100
    with pytest.raises(OutputExists):
        ingest([photos], out, progress=False)


def test_killed_while_duplicates_are_dropped(tmp_path, monkeypatch):
    root = copies(tmp_path / "in")
    ingest([root], tmp_path / "whole", dedupe=True, workers=1, progress=False)
    killed("while duplicates are dropped", root, tmp_path / "store", dedupe=True)
    run = lambda: ingest(  # noqa: E731
        [root], tmp_path / "store", dedupe=True, workers=1, progress=False
    )
    assert decoded_in(monkeypatch, run) == 0
    assert everything(tmp_path / "store") == everything(tmp_path / "whole")


def test_killed_at_random_with_two_processes(photos, undisturbed, tmp_path):
    """The parent is killed at some moment; its processes leave and the next run succeeds."""
    code = (
        "import sys; from pathlib import Path; from unlabel.data.ingest import ingest\n"
        "if __name__ == '__main__':\n"
        "    ingest([sys.argv[1]], Path(sys.argv[2]), workers=2, progress=False)"
    )
    out = tmp_path / "store"
    script = tmp_path / "script.py"
    script.write_text(code)
    child = subprocess.Popen([sys.executable, str(script), str(photos), str(out)])
    deadline = time.monotonic() + 60
    work = tmp_path / "store.partial"
    while not list(work.glob("note-*")) and not out.exists() and time.monotonic() < deadline:
        os.sched_yield()
    child.kill()
    child.wait()
    if not out.exists():
        ingest([photos], out, workers=1, progress=False)
    assert everything(out) == everything(undisturbed)


def test_changed_sources_start_anew(tmp_path, monkeypatch):
    root = fill(tmp_path / "in", 70)
    killed("between part 1 and its note", root, tmp_path / "store")
    changed = root / "class 0" / "0000.png"
    Image.fromarray(image(777)).save(changed)
    os.utime(changed, ns=(1, 1))
    run = lambda: ingest([root], tmp_path / "store", workers=1, progress=False)  # noqa: E731
    assert decoded_in(monkeypatch, run) == 71
    store = Store.open(tmp_path / "store")
    np.testing.assert_array_equal(store.image(store.names().index("class 0/0000.png")), image(777))


def test_other_options_start_anew(tmp_path, monkeypatch):
    root = fill(tmp_path / "in", 70)
    killed("before the manifest", root, tmp_path / "store")
    run = lambda: ingest(  # noqa: E731
        [root], tmp_path / "store", short_side=10, workers=1, progress=False
    )
    assert decoded_in(monkeypatch, run) == 71
    assert Store.open(tmp_path / "store").info.min_side == 10


def test_a_full_disk_keeps_what_is_finished(photos, undisturbed, tmp_path, monkeypatch):
    real = parts.write_arrow

    def full(path, batches):
        if path.name == "part-00002.arrow":
            raise OSError(28, "No space left on device")
        real(path, batches)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "write_arrow", full)
        with pytest.raises(StorageError, match=r"No space left on device.*same command again"):
            ingest([photos], tmp_path / "store", workers=1, progress=False)
    run = lambda: ingest([photos], tmp_path / "store", workers=1, progress=False)  # noqa: E731
    assert decoded_in(monkeypatch, run) == 37
    assert everything(tmp_path / "store") == everything(undisturbed)


def test_parts_are_written_in_bounded_chunks(photos, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "CHUNK_BYTES", 5000)
    ingest([photos], tmp_path / "store", workers=1, progress=False)
    assert len(Store.open(tmp_path / "store").files.images.starts) > 20
    assert everything(tmp_path / "store")["image"] == everything(undisturbed)["image"]
    last = Store.open(tmp_path / "store")
    for i in (0, 1, 50, 98, 99):
        np.testing.assert_array_equal(last.image(i), Store.open(undisturbed).image(i))


# What is there already --------------------------------------------------------------------------


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

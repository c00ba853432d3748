"""No kill, full disk or changed source spoils a store: run again, it is as never stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from photo_sets import copies, everything, fill, image
from PIL import Image

from unlabel.data import parts
from unlabel.data.ingest import ingest
from unlabel.data.store import Store
from unlabel.errors import DataError, InputMissing, OutputExists, StorageError


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def undisturbed(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("stores") / "store"
    ingest([photos], out, workers=1, progress=False)
    return out


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
        "import sys; from pathlib import Path; from unlabel.data import processes\n"
        "from unlabel.data.ingest import ingest; processes.SOON = processes.WORTH = -1\n"
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

"""Full, read-only and failing disks: a clear error, no leftovers, and the old file as it was."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import time
from pathlib import Path

import pytest

from faults import in_child, intercepted
from unlabel import atomic
from unlabel.atomic import Content, discard, link_folder, mismatch, write_folder
from unlabel.atomic import write_text_atomic as write_text
from unlabel.errors import StorageError

KILOBYTE = bytes(range(256)) * 4


def folder_of(kilobytes: int) -> dict[str, Content]:
    return {
        "a.bin": Content(1024 * kilobytes, [KILOBYTE] * kilobytes),
        "b.json": Content.of(b"{}\n"),
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    } | {str(p.relative_to(folder)): b"" for p in folder.rglob("*") if p.is_dir()}


@pytest.fixture
def before(tmp_path):
    """A folder with a text and a written folder, and their bytes."""
    write_text(tmp_path / "run" / "results.json", '{"old": true}\n')
    write_folder(tmp_path / "run" / "first", folder_of(4))
    return tmp_path / "run", contents(tmp_path / "run")


def test_folder_is_written_whole(before):
    run, _ = before
    assert (run / "first" / "a.bin").read_bytes() == KILOBYTE * 4
    assert mismatch(run / "first") is None
    assert sorted(p.name for p in run.iterdir()) == ["first", "results.json"]


def test_text_is_replaced_whole(before):
    run, _ = before
    write_text(run / "results.json", "na\u00efve \u2713\n")
    assert (run / "results.json").read_text(encoding="utf-8") == "na\u00efve \u2713\n"
    assert sorted(p.name for p in run.iterdir()) == ["first", "results.json"]


class Failing:
    """The ``at``-th call of one kind fails, and every later one of that kind."""

    def __init__(self, kind: str, at: int, code: int) -> None:
        self.kind, self.at, self.code, self.seen = kind, at, code, 0

    def __call__(self, name, original, *args, **kwargs):
        reading = name == "open" and not args[1] & os.O_CREAT  # cleaning up reads the folder
        if name == self.kind and not reading:
            self.seen += 1
            if self.seen >= self.at:
                raise OSError(self.code, os.strerror(self.code))
        return original(*args, **kwargs)


WORDS = {
    errno.ENOSPC: "Disk full at",
    errno.EDQUOT: "Disk full at",
    errno.EROFS: "cannot be written",
    errno.EACCES: "cannot be written",
    errno.EIO: "Input/output error",
}


@pytest.mark.parametrize("code", WORDS)
@pytest.mark.parametrize(
    ("kind", "at"),
    [("mkdir", 1), ("open", 1), ("open", 3), ("fsync", 1), ("fsync", 4), ("rename", 1)]
    + [("write", n) for n in (1, 3, 5, 6)],
)
def test_failing_disk_leaves_everything_as_it_was(before, code, kind, at):
    run, old = before
    with intercepted(Failing(kind, at, code)), pytest.raises(StorageError) as caught:
        write_folder(run / "second", folder_of(4))
    assert contents(run) == old
    assert WORDS[code] in str(caught.value)
    assert str(run / "second") in str(caught.value)
    assert caught.value.exit_code == 74


@pytest.mark.parametrize("code", WORDS)
@pytest.mark.parametrize("kind", ["open", "write", "fsync", "replace"])
def test_failing_disk_leaves_the_old_text(before, code, kind):
    run, old = before
    with intercepted(Failing(kind, 1, code)), pytest.raises(StorageError, match=WORDS[code]):
        write_text(run / "results.json", "new" * 1000)
    assert contents(run) == old


def test_short_writes_are_continued(tmp_path):
    def short(name, original, *args, **kwargs):
        if name == "write":
            handle, data = args
            return original(handle, data[: max(1, len(data) // 3)])
        return original(*args, **kwargs)

    with intercepted(short):
        write_folder(tmp_path / "folder", folder_of(2))
    assert (tmp_path / "folder" / "a.bin").read_bytes() == KILOBYTE * 2
    assert mismatch(tmp_path / "folder") is None


def test_what_the_disk_did_not_keep_is_found_by_reading_back(before):
    run, old = before

    def lying(name, original, *args, **kwargs):
        if name == "write":
            handle, data = args
            return original(handle, bytes(data[:-1]) + bytes([data[-1] ^ 1]))
        return original(*args, **kwargs)

    with intercepted(lying), pytest.raises(StorageError, match="does not hold what was written"):
        write_folder(run / "second", folder_of(1))
    assert contents(run) == old


@pytest.mark.parametrize("limit", [*range(0, 8192, 512), 8191, 8192, 8193, 9000])
def test_file_size_limit(before, limit):
    """A real limit of the system, in a process of its own; the file of 8,192 bytes may not fit."""
    run, old = before

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            write_folder(run / "second", folder_of(8))
            outcome = 10
        except StorageError as error:
            outcome = 20 if "Disk full" in str(error) and "needed" in str(error) else 30
        os._exit(outcome)

    pid = os.fork()
    if pid == 0:
        limited()
    outcome = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if limit >= 8192:
        assert outcome == 10
        assert mismatch(run / "second") is None
    else:
        assert outcome == 20
        assert contents(run) == old


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 kB in memory, where this machine lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        mounted = os.geteuid() == 0 and not subprocess.run(mount, capture_output=True).returncode
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def _fits_beside(disk: Path, kilobytes: int, old) -> bool:
    """Whether 64 kB can be written where ``kilobytes`` more are taken; leaves ``old`` behind."""
    (disk / "filler").write_bytes(bytes(1024 * kilobytes))
    try:
        write_folder(disk / "second", folder_of(64))
        discard(disk / "second")
        return True
    except StorageError as error:
        return "0.1 MB needed" not in str(error)
    finally:
        (disk / "filler").unlink()
        assert contents(disk) == old


def test_full_disk(small_disk):
    write_folder(small_disk / "first", folder_of(16))
    write_text(small_disk / "results.json", "old")
    old = contents(small_disk)
    refused = [k for k in range(45, 225, 9) if not _fits_beside(small_disk, k, old)]
    assert 5 < len(refused) < 15
    with pytest.raises(StorageError, match="Disk full"):
        write_text(small_disk / "results.json", "new" * 100_000)
    assert contents(small_disk) == old


def test_interrupted_writing_leaves_nothing(before):
    run, old = before

    def chunks():
        yield KILOBYTE
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(run / "second", {"a": Content(2048, chunks())})
    assert contents(run) == old


def test_nothing_is_written_over(before):
    run, old = before
    with pytest.raises(StorageError, match="first"):
        write_folder(run / "first", folder_of(1))
    assert contents(run) == old


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda f: (f / "a.bin").unlink(), "a.bin"),
        (lambda f: (f / "a.bin").write_bytes(b""), "a.bin"),
        (lambda f: (f / "b.json").write_bytes(b"{ }"), "b.json"),
        (lambda f: (f / "manifest.json").unlink(), "manifest.json"),
        (lambda f: (f / "manifest.json").write_text("[1, 2"), "manifest.json"),
        (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json"),
        (lambda f: (f / "manifest.json").write_text("7"), "manifest.json"),
    ],
)
def test_mismatch_names_the_file(before, damage, word):
    run, _ = before
    damage(run / "first")
    assert word in mismatch(run / "first")


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path):
    for name, age in ((".unlabel-old", 1e6), (".unlabel-new", -1e3), ("kept", 1e6), (".tmp", 1e6)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    write_text(tmp_path / "results.json", "{}")
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [".tmp", ".unlabel-new", "kept", "results.json"]


def test_free_space_of_a_lost_folder_is_unknown(tmp_path):
    assert atomic._free(tmp_path / "gone" / "file") == "an unknown amount"


def test_child_that_ends_by_itself_is_no_kill():
    assert in_child(lambda: None) == 0


def no_links(*_: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("linked", [True, False])
def test_a_linked_folder_is_whole_and_outlives_its_source(before, monkeypatch, linked):
    """Also where the disk has no links, and the files are copied."""
    run, _ = before
    if not linked:
        monkeypatch.setattr(os, "link", no_links)
    link_folder(run / "first", run / "else" / "second")
    assert (run / "first" / "a.bin").stat().st_nlink == 1 + linked
    discard(run / "first")
    assert mismatch(run / "else" / "second") is None
    assert (run / "else" / "second" / "a.bin").read_bytes() == KILOBYTE * 4


def test_a_damaged_folder_is_not_linked(before):
    run, _ = before
    (run / "first" / "a.bin").write_bytes(KILOBYTE * 3)
    old = contents(run)
    with pytest.raises(StorageError, match=r"first is damaged \(a.bin"):
        link_folder(run / "first", run / "second")
    assert contents(run) == old

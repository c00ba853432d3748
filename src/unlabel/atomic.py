"""Files and folders that are whole or not there, whenever the process or the power goes.

Everything is written aside, in the folder where it will stand, under a name that readers ignore
(``.unlabel-...``); flushed to the disk; read back; renamed; and its new folder is flushed too.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlabel.errors import OutputExists, StorageError

MANIFEST = "manifest.json"

TEMPORARY = ".unlabel-"
"""Before the names of what is being written; readers ignore them."""
_STARTED = time.time()
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EROFS, errno.EACCES, errno.EPERM}


@dataclass(frozen=True)
class Content:
    """What a file will hold: ``chunks`` of ``size`` bytes in all, made while they are written."""

    size: int
    chunks: Iterable[bytes | memoryview]

    @classmethod
    def of(cls, data: bytes) -> Content:
        """Content that is in memory already."""
        return cls(len(data), [data])


def check_writable(path: Path) -> None:
    """Look whether a folder can be made at ``path``, or written in; nothing is touched.

    Raises:
        OutputExists: the nearest folder above it that is there is no folder to write in.
    """
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise OutputExists(f"{path} cannot be made: {there} is no folder to write in.")


def write_text_atomic(path: Path, text: str) -> None:
    """Write or replace one UTF-8 file; as `write_bytes_atomic`."""
    write_bytes_atomic(path, text.encode())


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write or replace one file.

    Raises:
        StorageError: the disk is full, read-only or failing; the old file is as it was.
    """
    content = Content.of(data)
    with _aside(path, content.size) as temporary:
        _write(temporary, content)
        os.replace(temporary, path)
        _flush_folder(path.parent)


def write_folder(target: Path, files: Mapping[str, Content]) -> None:
    """Write a new folder of ``files`` with a manifest of their sizes and SHA-256.

    Raises:
        StorageError: the disk is full, read-only or failing, ``target`` is there already, or what
            is read back is not what was written. Nothing is left behind.
    """
    with _aside(target, sum(content.size for content in files.values())) as temporary:
        os.mkdir(temporary)
        entries = {name: _write(temporary / name, content) for name, content in files.items()}
        _write(temporary / MANIFEST, Content.of(_manifest(entries)))
        _flush_folder(temporary)
        if problem := mismatch(temporary):
            raise OSError(errno.EIO, f"the disk does not hold what was written ({problem})")
        publish(temporary, target)


def link_folder(source: Path, target: Path) -> None:
    """Give a folder that has a manifest a second home; its files are linked, or copied if need be.

    Raises:
        StorageError: the disk is full, read-only or failing, ``target`` is there already, or a file
            is not as the manifest records it. Nothing is left behind.
    """
    with _aside(target, 0) as temporary:
        shutil.copytree(source, temporary, copy_function=_link)
        _flush_folder(temporary)
        if problem := mismatch(temporary):
            raise OSError(errno.EIO, f"{source} is damaged ({problem})")
        publish(temporary, target)


def _link(source: str, target: str) -> None:
    """One more name for a file that nobody changes; a copy where the disk has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        with open(target, "rb") as copy:
            os.fsync(copy.fileno())


def publish(folder: Path, target: Path) -> None:
    """Give a finished folder its name, lastingly."""
    os.rename(folder, target)
    _flush_folder(target.parent)


def mismatch(folder: Path) -> str | None:
    """Say what in ``folder`` is not as its manifest records it; ``None`` when it is whole."""
    try:
        recorded = (folder / MANIFEST).read_bytes()
        entries: dict[str, Any] = json.loads(recorded)
        found = {Path(name).name: _measure(folder / Path(name).name) for name in entries}
    except OSError as error:
        return f"{Path(error.filename or folder).name}: {error.strerror}"
    except (ValueError, AttributeError, TypeError):
        return f"{MANIFEST} cannot be read"
    # Bytes, not values: so a change anywhere in the manifest itself counts as well.
    if _manifest(found) == recorded:
        return None
    differing = [name for name, entry in found.items() if entries.get(name) != entry]
    return f"{', '.join(differing) or MANIFEST}: size or SHA-256 differs from what was written"


def discard(folder: Path) -> None:
    """Remove a folder: it leaves its name at once, so nobody ever sees it half-removed."""
    with _aside(folder, 0) as temporary:
        os.rename(folder, temporary)
        _remove(temporary)


@contextmanager
def _aside(target: Path, size: int) -> Iterator[Path]:
    """Yield an unused path beside ``target``; on any error nothing stays there."""
    temporary = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        if not target.parent.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            _flush_folder(target.parent.parent)
        _sweep(target.parent)
        yield temporary
    except OSError as error:
        _remove(temporary)
        raise StorageError(_explain(error, target, size)) from error
    except BaseException:
        _remove(temporary)
        raise


def _sweep(folder: Path) -> None:
    """Remove what killed writers left in ``folder``: only what is older than this process."""
    for path in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError):
            if path.lstat().st_mtime < _STARTED:
                _remove(path)


def _write(path: Path, content: Content) -> dict[str, Any]:
    """Create ``path``, flush it to the disk, and return its entry of the manifest."""
    digest, size = hashlib.sha256(), 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for chunk in content.chunks:
            view = memoryview(chunk)
            digest.update(view)
            size += len(view)
            while view:
                view = view[os.write(handle, view) :]
        os.fsync(handle)
        if hasattr(os, "posix_fadvise"):  # so that reading back asks the disk, not the memory
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
    return {"size": size, "sha256": digest.hexdigest()}


def _measure(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": file.tell(), "sha256": digest}


def _manifest(entries: Mapping[str, Any]) -> bytes:
    return (json.dumps(entries, indent=2, sort_keys=True) + "\n").encode()


def _flush_folder(folder: Path) -> None:
    """Make the names in ``folder`` last; Windows has no such call."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    """Remove a file or folder as far as the disk allows; it may be gone already."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            os.unlink(path)


def _explain(error: OSError, target: Path, size: int) -> str:
    kept = "What was saved before is untouched."
    if error.errno in _FULL:
        return (
            f"Disk full at {target}: {size / 1e6:,.1f} MB needed, {_free(target)} free. {kept} "
            "Make room (or raise the quota or file-size limit), then run the same command again."
        )
    if error.errno in _DENIED:
        return (
            f"{target} cannot be written: {error.strerror}. {kept} "
            "Check the folder's permissions and that the disk is not mounted read-only."
        )
    return (
        f"Writing {target} failed: {error.strerror}. {kept} "
        "Check the disk (the system log names its errors), or choose another folder."
    )


def _free(target: Path) -> str:
    try:
        return f"{shutil.disk_usage(target.parent).free / 1e6:,.1f} MB"
    except OSError:
        return "an unknown amount"

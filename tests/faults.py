"""The system's file calls: counted, cut short by a kill, or remembered for a power cut."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CALLS = ("open", "write", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir")


@contextmanager
def intercepted(around: Callable[..., Any]) -> Iterator[None]:
    """Send every call of ``CALLS`` through ``around(name, call, *args, **kwargs)``."""
    originals = {name: getattr(os, name) for name in CALLS}

    def through(name):
        return lambda *args, **kwargs: around(name, originals[name], *args, **kwargs)

    for name in CALLS:
        setattr(os, name, through(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


class Killer:
    """Kills the process, with SIGKILL, at a byte of all that is written or before a call."""

    def __init__(self, byte: int | None = None, call: int | None = None) -> None:
        self.byte, self.call = byte, call
        self.bytes = self.calls = 0

    def __call__(self, name, original, *args, **kwargs):
        if self.calls == self.call:
            os.kill(os.getpid(), signal.SIGKILL)
        self.calls += 1
        if name == "write":
            handle, data = args
            if self.byte is not None and self.bytes + len(data) > self.byte:
                original(handle, data[: self.byte - self.bytes])
                os.kill(os.getpid(), signal.SIGKILL)
            self.bytes += len(data)
        return original(*args, **kwargs)


def in_child(action: Callable[[], Any]) -> int:
    """Run ``action`` in a forked process; the signal that ended it, or 0."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@dataclass
class File:
    """A file in memory: what was written, and what of it would survive a power cut."""

    data: bytes = b""
    durable: bytes = b""


@dataclass
class Folder:
    """A folder in memory: its names now, and those that would survive a power cut."""

    names: dict[str, File | Folder] = field(default_factory=dict)
    durable: dict[str, File | Folder] = field(default_factory=dict)


class Disk:
    """Remembers every file call under ``root``, to lay out what a power cut would leave.

    Nothing is certain but what was flushed: a file's bytes by its own fsync, a name by its
    folder's. ``lay_out`` gives the three extremes of what a file system may do with the rest.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log: list[tuple[Any, ...]] = []
        self._open: dict[int, Path] = {}
        self._start = _read(root)

    def __call__(self, name, original, *args, **kwargs):
        result = original(*args, **kwargs)
        if kwargs.get("dir_fd") is not None:  # inside a folder that has lost its name already
            return result
        if name == "open":
            path = Path(args[0])
            self._open[result] = path
            if args[1] & os.O_CREAT:
                self._note("create", path)
            if args[1] & os.O_TRUNC:
                self._note("truncate", path)
        elif name == "write":
            self._note("write", self._open[args[0]], bytes(args[1][:result]))
        elif name == "fsync":
            self._note("fsync", self._open[args[0]])
        else:
            self._note("rename" if name == "replace" else name, *map(Path, args[:2]))
        return result

    def _note(self, name, path, *rest):
        if path.is_relative_to(self.root):
            self.log.append((name, path, *rest))

    def steps(self) -> list[str]:
        """The calls as words, repeated writes as one, with temporary names shortened."""
        words: list[str] = []
        for name, path, *rest in self.log:
            paths = [path, *(rest if name == "rename" else [])]
            names = ["TMP" if p.name.startswith(".unlabel-") else p.name for p in paths]
            word = " ".join([name, *names])
            if word not in words[-1:]:
                words.append(word)
        return words

    def after(self, count: int) -> Folder:
        """The disk after the first ``count`` calls."""
        root = _copy(self._start)
        for name, path, *rest in self.log[:count]:
            parts = path.relative_to(self.root).parts
            if name == "fsync":
                node = _find(root, parts)
                node.durable = dict(node.names) if isinstance(node, Folder) else node.data
                continue
            parent, last = _find(root, parts[:-1]), parts[-1]
            if name == "create":
                parent.names.setdefault(last, File())
            elif name == "truncate":
                parent.names[last].data = b""
            elif name == "write":
                parent.names[last].data += rest[0]
            elif name == "mkdir":
                parent.names[last] = Folder()
            elif name == "rename":
                *above, new = rest[0].relative_to(self.root).parts
                _find(root, above).names[new] = parent.names.pop(last)
            else:
                parent.names.pop(last, None)
        return root


def lay_out(folder: Folder, target: Path, names: str, data: str) -> None:
    """Write ``folder`` as a power cut leaves it.

    ``names`` and ``data`` are ``"all"`` or ``"durable"``: how much of each reached the disk.
    """
    target.mkdir()
    for name, node in (folder.names if names == "all" else folder.durable).items():
        if isinstance(node, Folder):
            lay_out(node, target / name, names, data)
        else:
            (target / name).write_bytes(node.data if data == "all" else node.durable)


def _read(path: Path) -> Folder:
    folder = Folder()
    for entry in path.iterdir():
        data = b"" if entry.is_dir() else entry.read_bytes()
        folder.names[entry.name] = _read(entry) if entry.is_dir() else File(data, data)
    folder.durable = dict(folder.names)
    return folder


def _copy(folder: Folder) -> Folder:
    """A copy of a folder that is durable as a whole."""
    copies = {
        name: _copy(node) if isinstance(node, Folder) else File(node.data, node.durable)
        for name, node in folder.names.items()
    }
    return Folder(copies, dict(copies))


def _find(folder: Folder, parts) -> Any:
    node: Any = folder
    for part in parts:
        node = node.names[part]
    return node

"""Hostile weights are refused with a reason; they run nothing and take no memory."""

from __future__ import annotations

import argparse
import builtins
import io
import json
import os
import pickle
import resource
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from unlabel.backbones.weights import read_weights
from unlabel.errors import DataError


class Runs:
    """Pickles to a call: what a hostile file wants to happen when it is read."""

    def __init__(self, function, *args) -> None:
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def zipped(path, content, **options):
    torch.save(content, path.with_suffix(".pt"), **options)
    return path.with_suffix(".pt")


def legacy(path, content, protocol=2):
    options = {"_use_new_zipfile_serialization": False, "pickle_protocol": protocol}
    return zipped(path, content, **options).rename(path.with_suffix(".pth"))


def bare_pickle(path, content, protocol=2):
    path.with_suffix(".bin").write_bytes(pickle.dumps(content, protocol=protocol))
    return path.with_suffix(".bin")


def rezipped(path, compression=zipfile.ZIP_STORED, change=lambda name, data: data, size=2**20):
    """A file of torch whose archive is written anew."""
    zipped(path, {"weight": torch.zeros(size)})
    out = path.with_name("rezipped.pt")
    with (
        zipfile.ZipFile(path.with_suffix(".pt")) as source,
        zipfile.ZipFile(out, "w", compression) as target,
    ):
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
    return out


def lying_sizes(path):
    """The archive's table claims a thousand times what its members hold."""
    data = bytearray(rezipped(path, size=16).read_bytes())
    at = -1
    while (at := data.find(b"PK\x01\x02", at + 1)) >= 0:
        data[at + 24 : at + 28] = struct.pack("<I", 2**31)
    path.with_suffix(".pt").write_bytes(data)
    return path.with_suffix(".pt")


def claiming_storage(path):
    """The pickle claims a storage of a terabyte; the archive holds 64 bytes of it."""

    def change(name, data):
        wanted, claimed = b"K\x10", b"\x8a\x05" + (2**38).to_bytes(5, "little")
        return data.replace(wanted, claimed) if name.endswith("data.pkl") else data

    return rezipped(path, change=change, size=16)


def claiming_storage_in_a_legacy_file(path):
    file = legacy(path, {"weight": torch.zeros(16)})
    data = file.read_bytes()
    claimed = data.replace(b"K\x10", b"\x8a\x05" + (2**38).to_bytes(5, "little"))
    assert claimed != data
    file.write_bytes(claimed)
    return file


def growing_storage(path):
    """The tensor is larger than its storage, which torch would enlarge with whatever is there."""
    file = legacy(path, {"weight": torch.zeros(32)})
    data = file.read_bytes()
    assert data.count(b"K\x20\x85") == 1  # the shape (32,)
    file.write_bytes(data.replace(b"K\x20\x85", b"J\x00\x00\x10\x00\x85"))
    return file


def itself(path):
    content: dict = {}
    content["model"] = content
    return zipped(path, content)


def nested(path):
    return bare_raw(path, b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b".")


def bare_raw(path, data):
    path.with_suffix(".pth").write_bytes(data)
    return path.with_suffix(".pth")


def torchscript(path):
    torch.jit.script(nn.Linear(2, 2)).save(path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def tarred(path, marker):
    with tarfile.open(path.with_suffix(".tar"), "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(Runs(os.system, f"touch {marker}"), protocol=2)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path.with_suffix(".tar")


def distributed(path, marker):
    path.mkdir()
    (path / ".metadata").write_bytes(pickle.dumps(Runs(os.system, f"touch {marker}")))
    (path / "__0_0.distcp").write_bytes(b"x")
    return path


HOSTILE = {
    "os.system": lambda p, m: zipped(p, {"a": torch.ones(1), "b": Runs(os.system, f"touch {m}")}),
    "os.system, legacy": lambda p, m: legacy(p, {"a": Runs(os.system, f"touch {m}")}),
    "os.system, bare": lambda p, m: bare_pickle(p, Runs(os.system, f"touch {m}")),
    "os.system, protocol 4": lambda p, m: bare_pickle(p, Runs(os.system, f"touch {m}"), 4),
    "os.system, protocol 0": lambda p, m: bare_pickle(p, Runs(os.system, f"touch {m}"), 0),
    "eval": lambda p, m: zipped(p, Runs(builtins.eval, f"open({str(m)!r}, 'w')")),
    "exec": lambda p, m: zipped(p, Runs(builtins.exec, f"open({str(m)!r}, 'w')")),
    "open": lambda p, m: zipped(p, Runs(builtins.open, str(m), "w")),
    "mkdir": lambda p, m: zipped(p, Runs(os.mkdir, str(m))),
    "Path.touch": lambda p, m: zipped(p, Runs(Path.touch, m)),
    "Popen": lambda p, m: legacy(p, Runs(subprocess.Popen, ["touch", str(m)])),
    "getattr": lambda p, m: bare_raw(p, b"\x80\x02cbuiltins\ngetattr\ncposix\nsystem\n\x86R."),
    "torch.load": lambda p, m: zipped(p, Runs(torch.load, str(m))),
    "in a Namespace": lambda p, m: zipped(
        p, {"args": argparse.Namespace(a=Runs(os.system, f"touch {m}"))}
    ),
    "module": lambda p, m: zipped(p, nn.Linear(2, 2)),
    "tar": tarred,
    "distributed": distributed,
    "torchscript": lambda p, m: torchscript(p),
    "deflated": lambda p, m: rezipped(p, zipfile.ZIP_DEFLATED),
    "bzip2": lambda p, m: rezipped(p, zipfile.ZIP_BZIP2),
    "lying sizes": lambda p, m: lying_sizes(p),
    "storage": lambda p, m: claiming_storage(p),
    "storage, legacy": lambda p, m: claiming_storage_in_a_legacy_file(p),
    "growing storage, legacy": lambda p, m: growing_storage(p),
    "one value repeated": lambda p, m: zipped(p, {"a": torch.ones(1).expand(10**12)}),
    "no data": lambda p, m: zipped(p, {"a": torch.ones(10, device="meta")}),
    "sparse": lambda p, m: zipped(
        p, {"a": torch.sparse_coo_tensor([[10**9]], [1.0], (10**10,), check_invariants=True)}
    ),
    "bytearray": lambda p, m: legacy(p, {"a": Runs(bytearray, 10**9)}),
    "bytes": lambda p, m: legacy(p, {"a": bytes(1000)}),
    "itself": lambda p, m: itself(p),
    "nested": lambda p, m: nested(p),
    "random": lambda p, m: bare_raw(p, bytes(range(256)) * 40),
    "empty": lambda p, m: bare_raw(p, b""),
    "zip magic": lambda p, m: bare_raw(p, b"PK\x03\x04" + bytes(100)),
    "no tensors": lambda p, m: zipped(p, {"epoch": 3, "lr": [0.1]}),
    "a list": lambda p, m: zipped(p, [torch.ones(2)]),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.* is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles_are_refused_and_run_nothing(tmp_path, kind):
    marker = tmp_path / "marker"
    path = HOSTILE[kind](tmp_path / "weights", marker)
    marker.unlink(missing_ok=True)
    with pytest.raises(DataError) as caught:
        read_weights(path)
    assert not marker.exists()
    assert str(path) in str(caught.value)
    advice = ("weights_only", "safe_globals", "Re-running")
    assert not any(word in str(caught.value) for word in advice)


def header(tensors, data=b"", length=None):
    text = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


SAFETENSORS = {
    "overlap": header({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
    "same place": header({"a": entry(0, 8), "b": entry(0, 8)}, bytes(8)),
    "hole": header({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20)),
    "rest": header({"a": entry(0, 8)}, bytes(20)),
    "short": header({"a": entry(0, 8)}, bytes(4)),
    "wrong type": header({"a": entry(0, 8, dtype="F31")}, bytes(8)),
    "wrong size": header({"a": entry(0, 8, shape=(3,))}, bytes(8)),
    "negative": header({"a": entry(0, 8, shape=(-2,))}, bytes(8)),
    "overflow": header({"a": entry(0, 8, shape=(2**40, 2**40))}, bytes(8)),
    "huge header": header({"a": entry(0, 8)}, bytes(8), length=2**60),
    "large header": header(b'{"a":' + b" " * 100_000_001 + b"}"),
    "not JSON": header(b"{{{{"),
    "deep JSON": header(b'{"a":' * 100_000),
    "empty": b"",
    "pickle": pickle.dumps(Runs(os.system, "false")),
    "no tensors": header({}),
}


@pytest.mark.parametrize("kind", SAFETENSORS)
def test_hostile_safetensors_are_refused(tmp_path, kind):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(SAFETENSORS[kind])
    with pytest.raises(DataError) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)


def test_hostile_files_take_no_memory(tmp_path):
    bombs = {
        name: HOSTILE[name](tmp_path / str(number), tmp_path / "marker")
        for number, name in enumerate(
            ["lying sizes", "storage", "storage, legacy", "one value repeated", "bytearray"]
        )
    }
    bombs["deflated"] = rezipped(tmp_path / "bomb", zipfile.ZIP_DEFLATED, size=25 * 10**6)
    assert bombs["deflated"].stat().st_size < 1e6
    pid = os.fork()
    if pid == 0:
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for path in bombs.values():
            try:
                read_weights(path)
            except DataError:
                continue
            os._exit(1)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
        os._exit(0 if grown < 50_000 else 2)  # kB
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

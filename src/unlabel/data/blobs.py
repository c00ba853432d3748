"""A column of bytes in memory-mapped Arrow files, read row by row without a copy."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa


def open_part(path: Path) -> pa.Table:
    """One Arrow file, memory-mapped."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_stream(source).read_all()


class Blobs:
    """The ``large_binary`` column ``name`` of all ``tables``, one after the other."""

    def __init__(self, tables: Sequence[pa.Table], name: str) -> None:
        chunks = [c for table in tables for c in table.column(name).chunks if len(c)]
        self.starts = [0, *accumulate(len(chunk) for chunk in chunks)][:-1]
        buffers = [chunk.buffers() for chunk in chunks]
        self.offsets = [np.frombuffer(offsets, np.int64) for _, offsets, _ in buffers]
        self.data = [memoryview(data or b"").cast("B") for _, _, data in buffers]

    def __getitem__(self, row: int) -> memoryview:
        chunk = bisect_right(self.starts, row) - 1
        local = row - self.starts[chunk]
        first, last = self.offsets[chunk][local : local + 2]
        return self.data[chunk][first:last]

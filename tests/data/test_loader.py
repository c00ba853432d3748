from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fake_store import FakeStore, fake_store

from unlabel.data.loader import stream
from unlabel.data.spec import Batch, Crops, MaskSpec, Photometric, ViewSpec
from unlabel.data.views import Batches
from unlabel.errors import DataError

COLOURS = Photometric(0.8, 0.4, 0.4, blur_p=0.5)
SPEC = ViewSpec(
    {"large": Crops(16, 2, photometric=COLOURS), "small": Crops(8, scale=(0.05, 0.2))},
    {"large": MaskSpec("block", (4, 4), (8, 8), min_block=2)},
)
STOP = 5


def streamed(store: FakeStore, start: int = 0, workers: int = 0) -> list[Batch]:
    made = Batches(store, SPEC, seed=0, batch_size=6)
    return list(stream(made, start, STOP, workers=workers, device="cpu"))


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    for one, two in zip(ours, theirs, strict=True):
        for group in ("views", "masks"):
            for name, tensor in getattr(one, group).items():
                assert torch.equal(tensor, getattr(two, group)[name]), name
        assert torch.equal(one.ids, two.ids)
        assert torch.equal(one.labels, two.labels)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("channels", "dtype"), [(3, "uint8"), (5, "uint16")])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_bits_with_any_number_of_workers(channels, dtype, workers):
    store = fake_store(channels=channels, dtype=dtype)
    assert_same(streamed(store, workers=workers), streamed(store))


@pytest.mark.parametrize("start", range(STOP + 1))
def test_the_same_bits_resumed_at_any_step(start):
    store = fake_store()
    assert_same(streamed(store, start), streamed(store)[start:])


def test_streamed_views_are_ready_for_a_network():
    batch = streamed(fake_store())[0]
    assert batch.views["large"].dtype == torch.float32
    assert batch.views["large"].isfinite().all()
    assert batch.colours == {}


class Dying(FakeStore):
    """A store whose reader is killed, as by a machine that is out of memory."""

    def image(self, index: int, shrink: int = 1):
        os._exit(9)


def test_a_worker_that_dies_is_named():
    healthy = fake_store()
    store = Dying(healthy.images, healthy.ids, healthy.labels)
    with pytest.raises(DataError, match=r"died: .*workers=0"):
        streamed(store, workers=1)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_outlive_a_signal_to_the_whole_group(number):
    """Ctrl-C and a scheduler's signal reach them too; only the main process may act on it."""
    store = fake_store()
    made = Batches(store, SPEC, seed=0, batch_size=6)
    batches = stream(made, 0, STOP, workers=1, device="cpu")
    found = [next(batches)]
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, number)
    assert_same([*found, *batches], streamed(store))


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
if __name__ == "__main__":
    from fake_store import fake_store
    from test_loader import SPEC, Batches, stream
    made = Batches(fake_store(), SPEC, seed=0, batch_size=6)
    batches = stream(made, 0, 5, workers=2, device="cpu")
    next(batches)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_leave_with_a_killed_parent(tmp_path):
    """They and their server hold what it printed to, which would stay open."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, script, here], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL

from __future__ import annotations

import gc
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from unlabel.memory import _glibc, uncollected

# In a process of its own, whose memory no other test has shaped.
STEPS = """
import resource
import sys

import torch

from unlabel.memory import kept_memory


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def step():
    blocks = [torch.ones(20, 2**20) for _ in range(3)]  # 80 MiB each


def five():
    before = faults()
    for _ in range(5):
        step()
    return faults() - before


def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * resource.getpagesize() / 2**20


step()
with kept_memory(sys.argv[1]):
    five()  # finds its places
    print(min(five() for _ in range(3)))  # a block may find a new place in one of them
    held = resident()
print(held - resident())
"""


def run_steps(device: str) -> tuple[float, float]:
    """Page faults of five steps, and the MiB given back afterwards."""
    command = [sys.executable, "-c", STEPS, device]
    faults, returned = subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.split()
    return float(faults), float(returned)


needs_glibc = pytest.mark.skipif(_glibc() is None, reason="the C library is not glibc")
PAGES = 5 * 240 * 2**20 / resource.getpagesize()
"""Of the blocks of five steps."""


@needs_glibc
def test_a_step_uses_the_memory_of_the_step_before():
    faults, returned = run_steps("cpu")
    assert faults < PAGES / 100
    assert returned > 200


@needs_glibc
def test_without_it_every_page_is_asked_for_anew():
    faults, _ = run_steps("cuda")
    assert faults > PAGES / 2


def test_nothing_is_collected_while_modules_load():
    before = sum(stats["collections"] for stats in gc.get_stats())
    with uncollected():
        many = [[] for _ in range(100_000)]
        assert sum(stats["collections"] for stats in gc.get_stats()) == before
    assert gc.isenabled()
    assert any(thing is many for thing in gc.get_objects())  # and what there is can be collected


def test_an_error_leaves_the_collector_at_work():
    with pytest.raises(KeyError), uncollected():
        raise KeyError
    assert gc.isenabled()


def test_a_resting_collector_is_left_at_rest():
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


# In a process of its own, which it shapes for good.
SETTLED = """
import gc
import sys

from unlabel import cli

def looked_through(thing):
    return any(other is thing for other in gc.get_objects())

before, after = [], []
run = cli.run
def watched(arguments):
    print(looked_through(before))
    code = run(arguments)
    after.append([])
    return code
cli.run = watched

sizes = [0]
def watch(phase, info):
    if phase == "start":
        sizes.append(len(gc.get_objects(info["generation"])))
gc.callbacks.append(watch)
try:
    cli.main(sys.argv[1:])
finally:
    print(looked_through(after[0]), max(sizes) > 100_000, "torch" not in sys.modules)
"""


@pytest.mark.parametrize(
    ("command", "code"), [(("pretrain", "nowhere"), 66), (("demo", "--out", "taken"), 73)]
)
def test_a_command_never_looks_through_what_it_loads(command: tuple, code: int, tmp_path: Path):
    (tmp_path / "taken").mkdir()
    asked = [sys.executable, "-c", SETTLED, *command]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == code, done.stderr
    assert done.stdout.split() == ["False"] * 4

"""Two processes with half a batch each train as one process does with the whole batch.

Every method that matches views is tested by being there: losses, gradients and all that a step
leaves behind (weights, targets, queues, centres, running statistics).
"""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from functools import cache

import pytest
import torch
from torch import Tensor, distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from contract import test_methods as contract
from unlabel.config import ModelConfig
from unlabel.data.spec import Batch
from unlabel.methods.base import Method, Progress
from unlabel.methods.registry import methods
from unlabel.training.sync_norm import synchronise_norms

IMAGES, STEPS = 6, 3
contract.MODELS["tiny"] = ModelConfig(
    name="resnet18",
    image_size=64,
    arguments={"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)},
)


@cache
def matching() -> list[str]:
    """Methods with a group of large crops."""
    return [
        name
        for name, method in methods().items()
        if not method.needs and any(g.startswith("large") for g in build(name).spec.crops)
    ]


def build(name: str) -> Method:
    """With negatives that are sampled, and a queue that is in use by the last step."""
    known = methods()[name].Options.model_fields
    given = {"negatives": 2, "queue": 4, "queue_start": 0}
    options = {option: value for option, value in given.items() if option in known}
    return contract.build(name, "tiny", **options).double()


def exactly(patch: pytest.MonkeyPatch) -> None:
    """Without noise, of which each process has its own, and in double precision throughout."""
    patch.setattr("unlabel.methods.cbyol.sample", lambda mean, kappa: mean)
    patch.setattr(Tensor, "float", lambda x: x if x.dtype == torch.float64 else x.to(torch.float32))


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Part of a batch in double precision."""

    def cut(value):
        if isinstance(value, dict):
            return {name: cut(part) for name, part in value.items()}
        if isinstance(value, Tensor):
            return (value.double() if value.is_floating_point() else value)[rows]
        return value

    return replace(batch, **{f.name: cut(getattr(batch, f.name)) for f in fields(batch)})


def train(method: Method, model: torch.nn.Module, rows: slice) -> dict[str, Tensor]:
    """Losses, gradients of each step, and the state at the end."""
    found = {}
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.02)
    for step in range(STEPS):
        torch.manual_seed(step)
        progress = Progress(step, 10)
        batch = rows_of(contract.batch_for(method, IMAGES, seed=step), rows)
        total = model(batch, progress).total
        total.backward()
        found[f"loss {step}"] = total.detach()
        for name, parameter in method.named_parameters():
            if parameter.grad is not None:
                found[f"gradient {step} {name}"] = parameter.grad.clone()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(progress)
    return found | {f"state {name}": value for name, value in method.state_dict().items()}


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    meet = f"file://{folder}/meet"
    wait = timedelta(seconds=120)
    distributed.init_process_group("gloo", meet, timeout=wait, world_size=2, rank=rank)
    half = slice(rank * IMAGES // 2, (rank + 1) * IMAGES // 2)
    with pytest.MonkeyPatch.context() as patch:
        exactly(patch)
        for name in matching():
            method = build(name)
            synchronise_norms(method)
            both = DistributedDataParallel(method, broadcast_buffers=False)  # as the loop does
            found = train(method, both, half)
            torch.save(found, f"{folder}/{name}-{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(process, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("name", matching())
def test_two_processes_train_as_one(folder, monkeypatch, name: str):
    exactly(monkeypatch)
    method = build(name)
    whole = train(method, method, slice(None))
    first, second = (torch.load(folder / f"{name}-{rank}.pt") for rank in range(2))
    assert whole.keys() == first.keys() == second.keys()
    for key, expected in whole.items():
        found = first[key], second[key]
        if key.startswith("loss"):
            found = [sum(found) / 2]
        for value in found:
            torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-9, msg=key)


def test_every_kind_of_matching_is_there():
    assert {"simclr", "byol", "mocov3", "nnclr", "cbyol", "relic", "relicv2"} <= set(matching())

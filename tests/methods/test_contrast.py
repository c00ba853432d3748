from __future__ import annotations

import math
from datetime import timedelta

import pytest
import torch
from torch import distributed, multiprocessing

from unlabel.methods.parts.contrast import info_nce


def loop_info_nce(a, b, temperature, normalise, negatives):
    a, b = a.double(), b.double()
    if normalise:
        a, b = (torch.stack([row / row.norm() for row in rows]) for rows in (a, b))
    losses = []
    for own, other in ((a, b), (b, a)):
        for i in range(len(own)):
            score = lambda y: float(own[i] @ y) / temperature  # noqa: B023, E731
            candidates = [score(y) for y in other]
            if negatives == "both":
                candidates += [score(own[j]) for j in range(len(own)) if j != i]
            losses.append(math.log(sum(map(math.exp, candidates))) - score(other[i]))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("negatives", ["other", "both"])
@pytest.mark.parametrize("count", [1, 5])
def test_info_nce_against_float64_loops(normalise, negatives, count):
    torch.manual_seed(0)
    a, b = torch.randn(2, count, 6)
    loss, accuracy = info_nce(a, b, 0.2, normalise, negatives)
    assert loss.item() == pytest.approx(loop_info_nce(a, b, 0.2, normalise, negatives), abs=1e-5)
    assert 0 <= accuracy <= 1


def test_info_nce_of_random_features_is_the_log_of_the_candidates():
    torch.manual_seed(0)
    a, b = torch.randn(2, 256, 4096)
    loss, accuracy = info_nce(a, b)
    assert loss.item() == pytest.approx(math.log(256), abs=0.02)
    assert accuracy < 0.05
    assert info_nce(a, b, negatives="both")[0].item() == pytest.approx(math.log(511), abs=0.02)
    loss, accuracy = info_nce(a, a)
    assert (loss < 2, accuracy) == (True, 1)


def test_several_processes_match_as_one(tmp_path):
    torch.manual_seed(0)
    a, b = torch.randn(2, 6, 8)
    multiprocessing.spawn(process, (a, b, str(tmp_path)), nprocs=2)
    for negatives in ("other", "both"):
        whole_a = a.clone().requires_grad_()
        whole, _ = info_nce(whole_a, b, negatives=negatives)
        whole.backward()
        results = [torch.load(tmp_path / f"{negatives}-{rank}.pt") for rank in range(2)]
        assert sum(r[0] for r in results).item() / 2 == pytest.approx(whole.item(), rel=1e-5)
        # Each process averages over its rows, and data parallelism averages over processes.
        gradient = torch.cat([r[1] for r in results]) / 2
        torch.testing.assert_close(gradient, whole_a.grad)


def process(rank: int, a: torch.Tensor, b: torch.Tensor, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    for negatives in ("other", "both"):
        own = a[rank * 3 :][:3].clone().requires_grad_()
        loss, _ = info_nce(own, b[rank * 3 :][:3], negatives=negatives)
        loss.backward()
        torch.save((loss.detach(), own.grad), f"{folder}/{negatives}-{rank}.pt")
    distributed.destroy_process_group()

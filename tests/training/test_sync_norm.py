"""Two processes with half a batch each against torch's and timm's own norms on the whole batch."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import distributed, multiprocessing, nn

from unlabel.training.sync_norm import synchronise_norms

SHAPES = {"rows": (8, 4), "sequences": (8, 4, 5), "maps": (8, 4, 3, 2)}


def norms() -> dict[str, tuple[str, nn.Module]]:
    """Name of the case, shape of its input, and the norm, in float64 unless the case says so."""
    cases = {
        "1d": ("rows", nn.BatchNorm1d(4)),
        "1d without scale": ("rows", nn.BatchNorm1d(4, affine=False)),
        "1d over a sequence": ("sequences", nn.BatchNorm1d(4, momentum=0.3)),
        "2d": ("maps", nn.BatchNorm2d(4, eps=1e-3)),
        "2d with activation": ("maps", BatchNormAct2d(4)),
        "2d without memory": ("maps", nn.BatchNorm2d(4, track_running_stats=False)),
        "2d with a cumulative mean": ("maps", nn.BatchNorm2d(4, momentum=None)),
    }
    torch.manual_seed(1)
    for _, norm in cases.values():
        for parameter in norm.parameters():
            nn.init.normal_(parameter)
        norm.double()
    return cases


def inputs(shape: str, step: int) -> torch.Tensor:
    torch.manual_seed(step)
    offset = 1000.0 if step else 0.0  # where a sum of squares alone would lose the variance
    return torch.randn(SHAPES[shape], dtype=torch.float64) * 2 + offset


def pass_twice(norm: nn.Module, shape: str, rows: slice) -> dict[str, torch.Tensor]:
    """Outputs and gradients of two training steps, and of an evaluation, on some rows."""
    found = {}
    for step in range(2):
        x = inputs(shape, step)[rows].requires_grad_()
        y = norm.train()(x)
        weight = torch.linspace(-1, 1, y.numel() * 8 // len(y)).view(8, *y.shape[1:])[rows]
        (y * weight + y.square() * weight).sum().backward()
        found |= {f"y{step}": y.detach(), f"dx{step}": x.grad}
    found["evaluated"] = norm.eval()(inputs(shape, 0)[rows]).detach()
    shared = {f"buffer {name}": b for name, b in norm.named_buffers()}
    shared |= {f"gradient {name}": p.grad for name, p in norm.named_parameters()}
    return found | {name: value.clone() for name, value in shared.items()}


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    meet = f"file://{folder}/meet"
    wait = timedelta(seconds=60)
    distributed.init_process_group("gloo", meet, timeout=wait, world_size=2, rank=rank)
    results = {}
    for case, (shape, norm) in norms().items():
        synchronise_norms(norm)
        results[case] = pass_twice(norm, shape, slice(rank * 4, rank * 4 + 4))
    rough = nn.BatchNorm1d(4)
    synchronise_norms(rough)
    results["bf16"] = {"y": rough(inputs("rows", 0)[rank * 4 :][:4].bfloat16()).detach()}
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("norms")
    multiprocessing.spawn(process, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", norms())
def test_two_halves_are_normalised_as_one_batch(halves: list[dict], case: str):
    shape, norm = norms()[case]
    whole = pass_twice(norm, shape, slice(None))
    for name, expected in whole.items():
        first, second = (half[case][name] for half in halves)
        if name.startswith("buffer"):
            torch.testing.assert_close(first, expected)
            assert torch.equal(first, second)
        elif name.startswith("gradient"):
            torch.testing.assert_close(first + second, expected)
        elif name != "evaluated" or norm.track_running_stats:
            torch.testing.assert_close(torch.cat([first, second]), expected)


def test_half_precision_is_normalised_in_float32(halves: list[dict]):
    y = torch.cat([half["bf16"]["y"] for half in halves])
    assert y.dtype == torch.bfloat16
    expected = nn.BatchNorm1d(4)(inputs("rows", 0).bfloat16().float()).detach()
    torch.testing.assert_close(y.float(), expected, atol=1e-2, rtol=1e-2)

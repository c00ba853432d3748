"""What the machine can do: processors, memory, accelerators, and the precision that pays."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import psutil
import torch


@dataclass(frozen=True)
class Machine:
    """One machine as torch sees it. Memory is in GiB; ``threads`` are torch's on the processor."""

    processor: str
    threads: int
    memory: float
    device: str
    accelerator: str | None
    accelerator_memory: float | None
    bf16: bool
    """Whether the device multiplies bfloat16 natively, faster than float32."""

    def as_dict(self) -> dict[str, Any]:
        """The facts as plain values, with the versions of what computes."""
        packages = ("unlabel", "torch", "torchvision", "timm", "accelerate", "datasets")
        return asdict(self) | {
            "python": platform.python_version(),
            "versions": {name: metadata.version(name) for name in packages},
        }


def this_machine() -> Machine:
    """Look at the machine that this process runs on."""
    device = _device()
    name, memory = None, None
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        name, memory = properties.name, properties.total_memory / 2**30
    elif device == "mps":
        name = "Apple GPU"
    return Machine(
        processor=_capabilities().get("cpu_name") or platform.processor() or platform.machine(),
        threads=torch.get_num_threads(),
        memory=psutil.virtual_memory().total / 2**30,
        device=device,
        accelerator=name,
        accelerator_memory=memory,
        bf16=_multiplies_bf16(device),
    )


def _device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _capabilities() -> dict[str, Any]:
    """What torch knows of the processor; older releases know less."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    return dict(ask()) if ask else {}


def _multiplies_bf16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "mps":
        return False
    return any(_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))

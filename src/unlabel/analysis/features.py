"""Features of every image of a set by a frozen network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unlabel.data.images import Images
from unlabel.machine import this_machine


@torch.inference_mode()
def embed_all(
    embed: Callable[[Tensor], Tensor], images: Images, device: torch.device | str
) -> Tensor:
    """Apply ``embed`` to all images, in bfloat16 where the machine multiplies in it.

    Args:
        embed: images as stored, (B, C, H, W), to outputs (B, D).
        images: what to embed.
        device: where ``embed`` computes, and where the outputs stay.

    Returns:
        float32 (n, D).
    """
    with bf16(device):
        parts = [embed(batch.to(device, non_blocking=True)).float() for batch in images]
    return torch.cat(parts)


def bf16(device: torch.device | str) -> torch.autocast:
    """Mixed precision on ``device`` where this machine multiplies bfloat16 natively."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=this_machine().bf16 and kind != "mps")

"""Which attention kernel pays on which device."""

from __future__ import annotations

import torch
from torch import nn

PLAIN_TOKENS = 1024
"""Most tokens for which attention as three plain matrix operations is used on processors."""


def suit_attention(module: nn.Module, device: torch.device, tokens: int) -> None:
    """Choose the kernel of every timm attention in ``module`` for ``tokens`` tokens on ``device``.

    Accelerators keep torch's fused kernels. On processors the fused backward pass in bfloat16 takes
    two to nine times as long as plain matrix products and a softmax (measured with torch 2.14 at 50
    to 1,025 tokens; in float32 they are about equal), so the plain form is used as long as its
    attention matrices stay small.
    """
    fused = device.type != "cpu" or tokens > PLAIN_TOKENS
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            setattr(part, "fused_attn", fused)  # noqa: B010, timm declares it per class

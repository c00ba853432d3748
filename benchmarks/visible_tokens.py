"""MAE's encoder pass (a quarter of the patches) beside the full one, forward and with backward.

    python benchmarks/visible_tokens.py [--batch 8] [--turns 10] [--model vit_small_patch16_224]

Both take turns on the same images in one process; a time is the best of the turns, so that other
work on the machine counts little. The precision is bfloat16 where the processor multiplies in it,
and attention runs with the kernel that training uses.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from unlabel.backbones.attention import suit_attention
from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig
from unlabel.machine import this_machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--model", default="vit_small_patch16_224")
    asked = parser.parse_args()
    torch.manual_seed(0)
    bf16 = this_machine().bf16
    backbone = build_backbone(ModelConfig(name=asked.model))
    patches = backbone.grid[0] * backbone.grid[1]
    suit_attention(backbone, torch.device("cpu"), patches + backbone.prefix)
    images = torch.randn(asked.batch, 3, backbone.image_size, backbone.image_size)
    visible = torch.rand(asked.batch, patches).argsort(1)[:, : patches // 4]
    precision = "bfloat16" if bf16 else "float32"
    print(f"{asked.model}, batch {asked.batch}, {precision}, {torch.get_num_threads()} threads")
    for backward in (False, True):

        def encode(seen: torch.Tensor | None, backward: bool = backward) -> None:
            with (
                torch.set_grad_enabled(backward),
                torch.autocast("cpu", torch.bfloat16, enabled=bf16),
            ):
                tokens = backbone.tokens(images, visible=seen)
            if backward:
                tokens.float().square().mean().backward()
                backbone.zero_grad(set_to_none=True)

        pairs = [(timed(encode, None), timed(encode, visible)) for _ in range(asked.turns + 1)][1:]
        full, seen = (1e3 * min(times) for times in zip(*pairs, strict=True))
        what = "forward and backward" if backward else "forward"
        print(f"{what:21} full {full:7.1f} ms   a quarter {seen:7.1f} ms   ratio {full / seen:.2f}")


def timed(encode: Callable[[torch.Tensor | None], None], seen: torch.Tensor | None) -> float:
    start = time.perf_counter()
    encode(seen)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

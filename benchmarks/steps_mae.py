"""MAE's whole training step (forward, backward, update) beside BEiT's and transformers' ViTMAE's.

    python benchmarks/steps_mae.py [--batch 8] [--turns 5] [--model vit_base_patch16_224] [--busy]

All take turns on the same images in one process, with the same fused AdamW; a time is the median
over the turns. The precision is bfloat16 where the processor multiplies in it. transformers runs as
it comes (its ``sdpa`` attention), with its ``eager`` attention, and at its default precision,
float32. On a machine with other work, ``--busy`` counts the processor's time on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from unlabel.backbones.attention import suit_attention
from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig
from unlabel.data.spec import Batch
from unlabel.machine import this_machine
from unlabel.methods.base import DataInfo, Method, Progress
from unlabel.methods.registry import build_method
from unlabel.training.optim import build_optimizer

DATA = DataInfo(images=1000, classes=0, mean=(0.5,) * 3, std=(0.25,) * 3)
PEER = {"vit_base_patch16_224": (768, 12, 12), "vit_small_patch16_224": (384, 12, 6)}
"""Width, blocks and heads of the models that the peer is built for."""

Step = Callable[[], None]


def main() -> None:
    arguments = parse()
    if arguments.busy:
        torch.set_num_threads(1)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if this_machine().bf16 else torch.float32
    images = torch.randn(arguments.batch, 3, 224, 224)
    mae, beit = (method(name, arguments.model) for name in ("mae", "beit"))
    peer = transformers_mae(arguments.model, mae)
    own = optimizer(peer)
    steps = {
        "ours: MAE": method_step(mae, images, dtype),
        "ours: BEiT": method_step(beit, images, dtype),
        "transformers: MAE": peer_step(peer, own, images, dtype, "sdpa"),
        "transformers: MAE, eager attention": peer_step(peer, own, images, dtype, "eager"),
        "transformers: MAE, float32": peer_step(peer, own, images, torch.float32, "sdpa"),
    }
    clock = time.process_time if arguments.busy else time.perf_counter
    times = take_turns(steps, arguments.turns, clock)
    report(times, arguments, dtype)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--model", choices=sorted(PEER), default="vit_base_patch16_224")
    return parser.parse_args()


def method(name: str, model: str) -> Method:
    """One of our methods as the training loop builds it, ready for its first step."""
    built = build_method(name, build_backbone(ModelConfig(name=model)), {}, DATA)
    built.prepare(torch.randn(64, 3, 224, 224))
    grid = built.backbone.grid
    suit_attention(built, torch.device("cpu"), grid[0] * grid[1])
    return built.train()


def transformers_mae(model: str, ours: Method) -> ViTMAEForPreTraining:
    """Their MAE with the sizes of ours."""
    width, blocks, heads = PEER[model]
    decoder = ours.decoder
    dim = decoder.embed.out_features
    config = ViTMAEConfig(
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        decoder_hidden_size=dim,
        decoder_num_hidden_layers=len(decoder.blocks),
        decoder_num_attention_heads=decoder.blocks[0].attn.num_heads,
        decoder_intermediate_size=4 * dim,
        norm_pix_loss=True,
    )
    return ViTMAEForPreTraining(config).train()


def optimizer(module: nn.Module) -> torch.optim.Optimizer:
    trained = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=1e-4, fused=True)


def method_step(method: Method, images: Tensor, dtype: torch.dtype) -> Step:
    batch = batch_for(method, images)
    ours = build_optimizer(method, method.recipe)
    return lambda: update(lambda: method(batch, Progress(0, 1)).total, ours, dtype)


def peer_step(
    model: ViTMAEForPreTraining,
    own: torch.optim.Optimizer,
    images: Tensor,
    dtype: torch.dtype,
    attention: str,
) -> Step:
    def step() -> None:
        model.set_attn_implementation(attention)
        update(lambda: model(images).loss, own, dtype)

    return step


def update(loss: Callable[[], Tensor], own: torch.optim.Optimizer, dtype: torch.dtype) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        total = loss()
    total.backward()
    own.step()
    own.zero_grad(set_to_none=True)


def batch_for(method: Method, images: Tensor) -> Batch:
    """The images in every group that the method asks for, with random masks of the right counts."""
    count = len(images)
    masks = {}
    for group, spec in method.spec.masks.items():
        rank = torch.rand(count, spec.patches).argsort(1).argsort(1)
        ends = torch.tensor(spec.visible).cumsum(0)
        parts = [
            (rank < end) & (rank >= end - seen)
            for end, seen in zip(ends.tolist(), spec.visible, strict=True)
        ]
        masks[group] = torch.stack(parts, dim=1)
    views = {
        group: images[:, None].expand(-1, crops.count, -1, -1, -1)
        for group, crops in method.spec.crops.items()
    }
    return Batch(views, masks, torch.arange(count))


def take_turns(
    steps: dict[str, Step], turns: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each step; the first turn warms up and is not kept."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(turns + 1):
        for name, step in steps.items():
            start = clock()
            step()
            if turn:
                times[name].append(clock() - start)
    return times


def report(
    times: dict[str, list[float]], arguments: argparse.Namespace, dtype: torch.dtype
) -> None:
    print(
        f"{arguments.model}, {arguments.batch} images of 224 px, "
        f"{torch.get_num_threads()} threads, {dtype} unless said otherwise, torch "
        f"{torch.__version__}"
    )
    for name, seconds in times.items():
        middle = median(seconds)
        print(f"  {name:36} {middle:7.3f} s a step  {arguments.batch / middle:6.1f} images/s")
    targets = {
        "ours: BEiT": 1.7,
        "transformers: MAE": 1.0,
        "transformers: MAE, eager attention": 1.0,
        "transformers: MAE, float32": 1.5 if dtype == torch.bfloat16 else None,
    }
    mine = median(times["ours: MAE"])
    for name, target in targets.items():
        ratio = median(times[name]) / mine
        wanted = "" if target is None else f"  (wanted: {target} or more)"
        print(f"  our MAE is {ratio:5.2f} times as fast as {name}{wanted}")


if __name__ == "__main__":
    main()

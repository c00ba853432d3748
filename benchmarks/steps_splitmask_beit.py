"""SplitMask's whole training step beside BEiT's, and BEiT's beside transformers'.

    python benchmarks/steps_splitmask_beit.py [--batch 8] [--turns 5] [--model vit_base_patch16_224]
        [--dvae] [--busy]

All take turns on the same images in one process, with the same fused AdamW and the same tokenizer,
which is part of every step; a time is the median over the turns, a ratio the median of each turn's
ratio. The tokenizer is a random projection, or with ``--dvae`` an untrained encoder of DALL-E's
size, which is what the paper timed. The precision is bfloat16 where the processor multiplies in it.
transformers runs as it comes (its ``sdpa`` attention), with its ``eager`` attention, and at its
default precision, float32; it is set to BEiT's variant with absolute positions, as ours is. On a
machine with other work, ``--busy`` counts the processor's time on one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file
from steps_mae import DATA, PEER, Step, batch_for, method_step, optimizer, take_turns, update
from torch import Tensor
from transformers import BeitConfig, BeitForMaskedImageModeling

from unlabel.backbones.attention import suit_attention
from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig
from unlabel.machine import this_machine
from unlabel.methods.base import Method
from unlabel.methods.parts.dvae import Encoder
from unlabel.methods.registry import build_method


def main() -> None:
    arguments = parse()
    if arguments.busy:
        torch.set_num_threads(1)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if this_machine().bf16 else torch.float32
    images = torch.randn(arguments.batch, 3, 224, 224)
    options = untrained_dvae() if arguments.dvae else {}
    splitmask, beit = (method(name, arguments.model, options) for name in ("splitmask", "beit"))
    peer = transformers_beit(arguments.model, beit.tokenizer.vocabulary)
    own = optimizer(peer)
    steps = {
        "ours: SplitMask": method_step(splitmask, images, dtype),
        "ours: BEiT": method_step(beit, images, dtype),
        "transformers: BEiT": peer_step(peer, own, beit, images, dtype, "sdpa"),
        "transformers: BEiT, eager attention": peer_step(peer, own, beit, images, dtype, "eager"),
        "transformers: BEiT, float32": peer_step(peer, own, beit, images, torch.float32, "sdpa"),
    }
    clock = time.process_time if arguments.busy else time.perf_counter
    report(take_turns(steps, arguments.turns, clock), arguments, dtype)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--model", choices=sorted(PEER), default="vit_base_patch16_224")
    parser.add_argument("--dvae", action="store_true")
    parser.add_argument("--busy", action="store_true")
    return parser.parse_args()


def untrained_dvae() -> dict[str, Any]:
    """Options for a tokenizer of DALL-E's size."""
    path = Path(tempfile.mkdtemp()) / "dvae.safetensors"
    save_file(Encoder().state_dict(), path)
    return {"tokenizer": "dvae", "dvae_weights": str(path)}


def method(name: str, model: str, options: dict[str, Any]) -> Method:
    """One of our methods as the training loop builds it, ready for its first step.

    A random projection learns nothing beforehand, and DALL-E's encoder is read when it is built.
    """
    built = build_method(name, build_backbone(ModelConfig(name=model)), options, DATA)
    rows, columns = built.backbone.grid
    suit_attention(built, torch.device("cpu"), rows * columns)
    return built.train()


def transformers_beit(model: str, vocabulary: int) -> BeitForMaskedImageModeling:
    """Their BEiT with absolute positions, neither relative bias nor LayerScale."""
    width, blocks, heads = PEER[model]
    config = BeitConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        image_size=224,
        use_mask_token=True,
        use_absolute_position_embeddings=True,
        use_relative_position_bias=False,
        use_shared_relative_position_bias=False,
        layer_scale_init_value=0.0,
        drop_path_rate=0.0,
    )
    return BeitForMaskedImageModeling(config).train()


def peer_step(
    model: BeitForMaskedImageModeling,
    own: torch.optim.Optimizer,
    ours: Method,
    images: Tensor,
    dtype: torch.dtype,
    attention: str,
) -> Step:
    """Their step on the masks that ours gets, with labels from our tokenizer."""
    hidden = ~batch_for(ours, images).masks["images"][:, 0]

    def loss() -> Tensor:
        labels = ours.tokenizer.tokens(images)[hidden]
        return model(images, bool_masked_pos=hidden, labels=labels).loss

    def step() -> None:
        model.set_attn_implementation(attention)
        update(loss, own, dtype)

    return step


def report(
    times: dict[str, list[float]], arguments: argparse.Namespace, dtype: torch.dtype
) -> None:
    print(
        f"{arguments.model}, {arguments.batch} images of 224 px, "
        f"{'DALL-E tokenizer' if arguments.dvae else 'random projection'}, "
        f"{torch.get_num_threads()} threads, {dtype} unless said otherwise, torch "
        f"{torch.__version__}"
    )
    for name, seconds in times.items():
        middle = median(seconds)
        print(f"  {name:36} {middle:7.3f} s a step  {arguments.batch / middle:6.1f} images/s")
    beit = times["ours: BEiT"]
    ratio = middle_ratio(times["ours: SplitMask"], beit)
    print(f"  our SplitMask takes {ratio:5.2f} times as long as our BEiT  (wanted: 1.3 or less)")
    targets = {
        "transformers: BEiT": 1.0,
        "transformers: BEiT, eager attention": None,
        "transformers: BEiT, float32": 1.5 if dtype == torch.bfloat16 else None,
    }
    for name, target in targets.items():
        wanted = "" if target is None else f"  (wanted: {target} or more)"
        print(
            f"  our BEiT is {middle_ratio(times[name], beit):5.2f} times as fast as {name}{wanted}"
        )


def middle_ratio(longer: list[float], shorter: list[float]) -> float:
    return median(a / b for a, b in zip(longer, shorter, strict=True))


if __name__ == "__main__":
    main()

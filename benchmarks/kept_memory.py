"""What keeping a step's memory on a processor saves: SimCLR's step within and without.

    python benchmarks/kept_memory.py [--turns 3]

The processor's time of a step on one thread, the median over the turns; the ratio is the median of
each turn's. Each turn makes steps within ``kept_memory`` and without, each in a new process, whose
memory nothing else has shaped, and takes the fastest. Images are random, and are there beforehand.
glibc only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from statistics import median

import torch
from steps_mae import Step, update

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig, OptimConfig
from unlabel.data.spec import Batch
from unlabel.machine import this_machine
from unlabel.memory import kept_memory
from unlabel.methods.base import DataInfo, Progress
from unlabel.methods.registry import build_method
from unlabel.training.optim import build_optimizer

DATA = DataInfo(images=1000, classes=0, mean=(0.5,) * 3, std=(0.25,) * 3)
CASES = (("resnet_nano", 32, 128), ("resnet18", 224, 16))
"""Model, pixels and images a step."""
STEPS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    turns = parser.parse_args().turns
    for model, size, images in CASES:
        times = [[alone(model, size, images, kept) for kept in (True, False)] for _ in range(turns)]
        kept, given = (median(column) for column in zip(*times, strict=True))
        ratio = median(plain / held for held, plain in times)
        print(
            f"{model}, {images} images of {size} px: {given:.3f} s a step, "
            f"with kept memory {kept:.3f} s, {ratio:.2f} times as fast",
            flush=True,
        )


def alone(model: str, size: int, images: int, kept: bool) -> float:
    """Seconds of the processor for a step, in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(fastest, model, size, images, kept).result()


def fastest(model: str, size: int, images: int, kept: bool) -> float:
    torch.set_num_threads(1)
    step = simclr(model, size, images)
    with kept_memory("cpu") if kept else nullcontext():
        return min([timed(step) for _ in range(STEPS)][1:])


def simclr(model: str, size: int, images: int) -> Step:
    """SimCLR's whole step as the training loop makes it."""
    torch.manual_seed(0)
    backbone = build_backbone(ModelConfig(name=model, image_size=size))
    method = build_method("simclr", backbone, {}, DATA).train()
    method.to(memory_format=torch.channels_last)
    views = {
        group: torch.randn(images, crops.count, size, size, 3).permute(0, 1, 4, 2, 3)
        for group, crops in method.spec.crops.items()
    }
    batch = Batch(views, {}, torch.arange(images))
    own = build_optimizer(method, OptimConfig(optimizer="sgd", lr=0.1))
    dtype = torch.bfloat16 if this_machine().bf16 else torch.float32
    return lambda: update(lambda: method(batch, Progress(0, 1)).total, own, dtype)


def timed(step: Step) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


if __name__ == "__main__":
    main()

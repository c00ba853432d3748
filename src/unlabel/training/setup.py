"""From settings to everything that a run needs in memory: data, network, optimiser, monitors."""

from __future__ import annotations

import atexit
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration
from torch import Tensor, nn

from unlabel.backbones.attention import suit_attention
from unlabel.backbones.build import build_backbone
from unlabel.config import PretrainConfig
from unlabel.data.loader import stream
from unlabel.data.spec import ViewSpec
from unlabel.data.store import Store
from unlabel.data.views import Batches, used_layers
from unlabel.errors import ConfigError, DataError, InputMissing
from unlabel.machine import this_machine
from unlabel.methods.base import DataInfo, Method
from unlabel.methods.parts.multicrop import ViewOptions
from unlabel.methods.parts.teacher import Teacher
from unlabel.methods.registry import build_method
from unlabel.training.checkpoint import parameter_names
from unlabel.training.monitors import Monitors
from unlabel.training.optim import build_optimizer
from unlabel.training.run import Run
from unlabel.training.split import split_store
from unlabel.training.sync_norm import synchronise_norms

PREPARE_IMAGES = 4096
"""Training images that a method may look at before step 0, to fit a tokenizer say."""
SAMPLE_BATCH = 256
"""Images of that sample that are read together."""


@dataclass
class Training:
    """A run in memory. ``model`` wraps ``method`` when several processes train."""

    config: PretrainConfig
    accelerator: Accelerator
    method: Method
    model: nn.Module
    optimizer: torch.optim.Optimizer
    parameters: list[nn.Parameter]
    names: dict[Tensor, str]
    batches: Batches
    monitors: Monitors
    autocast: Callable[[], AbstractContextManager]


def assemble(run: Run, tell: Callable[[str], None] = lambda _: None) -> Training:
    """Build what ``run`` trains, from its settings alone: the same in every process and resume.

    ``tell`` is called with a sentence when something slow begins.
    """
    config = run.config
    accelerator = _accelerator(run)
    learnt_from, held_out = split_store(config)
    method = build(config, learnt_from)
    _refuse_other_layers(run, used_layers(learnt_from, method.spec))
    training = deal(
        config, method, learnt_from, accelerator.process_index, accelerator.num_processes
    )
    if type(method).prepare is not Method.prepare:
        count = min(PREPARE_IMAGES, len(learnt_from))
        tell(f"Preparing {method.name} on a sample of {count:,} images, once")
        method.prepare(_sample(method, learnt_from, config))
    method.to(accelerator.device)
    if accelerator.num_processes > 1:
        synchronise_norms(method)
    suit_attention(method, accelerator.device, math.prod(method.backbone.grid))
    optimizer = build_optimizer(method, config.optim)
    cast = partial(autocast, accelerator.device.type, precision(config))
    if config.compile:
        method.compile()
    model = accelerator.prepare(method) if accelerator.num_processes > 1 else method
    return Training(
        config=config,
        accelerator=accelerator,
        method=method,
        model=model,
        optimizer=optimizer,
        parameters=[p for p in method.parameters() if p.requires_grad],
        names=parameter_names(method),
        batches=training,
        monitors=Monitors(method, learnt_from, held_out, config, accelerator.device, cast),
        autocast=cast,
    )


def _refuse_other_layers(run: Run, layers: dict[str, str]) -> None:
    """Raise DataError if a resumed run would see other masks than it began with."""
    began_with = run.facts.get("data", {}).get("layers", layers)
    if began_with != layers:
        names = ", ".join(sorted(dict(began_with.items() ^ layers.items())))
        raise DataError(
            f"{run.config.data} has other masks ({names}) than {run.path} began with. Put them "
            "back as they were, or start a new run."
        )


def deal(config: PretrainConfig, method: Method, store: Store, rank: int, world: int) -> Batches:
    """The training batches of process ``rank`` of ``world``.

    Raises:
        ConfigError: the batch cannot be dealt to processes and micro-batches, or leaves a single
            image where images are compared.
    """
    _refuse_single_images(config, method, world)
    return Batches(
        store,
        method.spec,
        seed=config.seed,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        rank=rank,
        world=world,
    )


def _refuse_single_images(config: PretrainConfig, method: Method, processes: int) -> None:
    """Views are matched, and batch norms computed, within what is in memory at once.

    Raises:
        ConfigError: that is a single image.
    """
    matches = issubclass(type(method).Options, ViewOptions)
    if matches and config.batch_size // (config.accumulate * processes) < 2:
        raise ConfigError(
            f"method {method.name!r} compares the images of a batch: batch_size "
            f"{config.batch_size} in {config.accumulate} micro-batches leaves one at a time. Use a "
            "larger --batch-size or a smaller accumulate."
        )


def build(config: PretrainConfig, store: Store) -> Method:
    """The method around its backbone, seeded by the run's seed.

    Raises:
        ConfigError: an average was asked for of a method that keeps one of its own.
    """
    torch.manual_seed(config.seed)
    info = store.info
    floats = np.dtype(info.dtype).kind == "f"
    layers = {name: name in store.layers for name in ("foreground", "segments")}
    data = DataInfo(len(store), len(info.classes), info.mean, info.std, floats, **layers)
    method = build_method(config.method, build_backbone(config.model), config.options, data)
    if config.average is not None:
        if method.average is not None:
            raise ConfigError(
                f"average {config.average}: {config.method} exports its teacher, which is an "
                "average of the weights already. Leave the setting out."
            )
        method.average = Teacher(method.backbone)
    return method


def precision(config: PretrainConfig) -> torch.dtype:
    """The type of matrix products: as asked, or bfloat16 where the machine multiplies in it."""
    wants = config.precision == "bf16" or (config.precision == "auto" and this_machine().bf16)
    return torch.bfloat16 if wants else torch.float32


def autocast(device: str, dtype: torch.dtype) -> torch.autocast:
    """Matrix products in ``dtype`` on ``device``; float32 leaves everything as it is."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


@cache
def processes() -> PartialState:
    """The processes that train together; one unless launched as more.

    They are joined on the first call, and stay so to the end for runs that follow one another.
    """
    state = PartialState(cpu=this_machine().device == "cpu")
    atexit.register(state.destroy_process_group)
    return state


def check_trackers(config: PretrainConfig) -> None:
    """Raise InputMissing for a tracker whose package is not installed."""
    for tracker in config.trackers:
        if find_spec(tracker) is None:
            raise InputMissing(
                f"The tracker {tracker} is not installed: pip install 'unlabel[{tracker}]', or "
                "choose others with --set trackers=[tensorboard]."
            )


def _accelerator(run: Run) -> Accelerator:
    check_trackers(run.config)
    trackers = list(run.config.trackers)
    accelerator = Accelerator(
        cpu=processes().device.type == "cpu",
        mixed_precision="no",  # the loop's own autocast also serves the monitors
        log_with=trackers or None,
        # Every process computes the same buffers (norms are synchronised, keys gathered), so those
        # of the first need not be sent: a queue of keys is 100 MB a step.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        project_config=ProjectConfiguration(logging_dir=str(run.path), project_dir=str(run.path)),
    )
    if trackers:
        accelerator.init_trackers("logs")
    return accelerator


def _sample(method: Method, store: Store, config: PretrainConfig) -> Tensor:
    """Normalised crops of the first group, one an image, on the processor."""
    _, some = store.holdout(1.0, PREPARE_IMAGES, config.seed)
    group, crops = next(iter(method.spec.crops.items()))
    batches = Batches(
        some,
        ViewSpec({group: replace(crops, count=1)}),
        seed=config.seed,
        batch_size=SAMPLE_BATCH,
        fixed=True,
    )
    found = stream(batches, 0, len(batches), workers=0, device=torch.device("cpu"))
    return torch.cat([batch.views[group][:, 0] for batch in found])

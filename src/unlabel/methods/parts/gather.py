"""What processes that train together share: rows of the whole batch, and means over it.

Held-out images are the same in every process, so nothing is shared while gradients are off and
the method is evaluated: callers pass tensors of the training batch only.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch.distributed.nn.functional import all_gather


def from_all(rows: Tensor) -> Tensor:
    """The rows (B, ...) of every process in the order of ranks, (G, ...).

    Gradients return to their owners.
    """
    return torch.cat(all_gather(rows)) if shares() else rows


@torch.no_grad()
def mean_over_all(values: Tensor) -> Tensor:
    """The mean of ``values`` over the processes, without gradient."""
    if not shares():
        return values
    values = values.clone()
    distributed.all_reduce(values)
    return values / distributed.get_world_size()


def shares() -> bool:
    """Whether other processes hold other images of this batch."""
    ready = distributed.is_available() and distributed.is_initialized()
    return ready and distributed.get_world_size() > 1 and not torch.is_inference_mode_enabled()


def processes() -> int:
    """How many processes share a batch; 1 where this one is alone with it."""
    return distributed.get_world_size() if shares() else 1


def rank() -> int:
    """This process's place among those that share."""
    return distributed.get_rank() if shares() else 0

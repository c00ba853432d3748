"""Batch norms that see the whole batch when several processes share it.

torch's ``SyncBatchNorm`` works on CUDA devices alone; this works on any, and leaves the modules
and the names of their parameters as they are.
"""

from __future__ import annotations

from functools import partial

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise_norms(network: nn.Module) -> None:
    """Make every batch norm in ``network`` use the statistics of all processes while it trains.

    Every process must hold equally many images.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.forward = partial(_normalise, module, module.forward)  # type: ignore[method-assign]


def _normalise(norm: _BatchNorm, alone, x: Tensor) -> Tensor:
    if not norm.training:
        return alone(x)
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = [1, -1] + [1] * (x.ndim - 2)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = _mean_over_processes(wide.mean(axes))
    centred = wide - mean.view(shape)
    variance = _mean_over_processes(centred.square().mean(axes))
    _remember(norm, mean.detach(), variance.detach(), x.numel() // x.shape[1])
    y = centred * torch.rsqrt(variance + norm.eps).view(shape)
    if norm.affine:
        y = y * norm.weight.view(shape) + norm.bias.view(shape)
    y = y.to(x.dtype)
    return norm.act(norm.drop(y)) if isinstance(norm, BatchNormAct2d) else y


def _mean_over_processes(values: Tensor) -> Tensor:
    return all_reduce(values) / distributed.get_world_size()


@torch.no_grad()
def _remember(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics, of which the variance is the unbiased one."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    if norm.momentum is not None:
        share = torch.full_like(mean, norm.momentum)
    else:  # the mean of all batches
        share = torch.ones_like(mean) / norm.num_batches_tracked
    count *= distributed.get_world_size()
    norm.running_mean.lerp_(mean, share)
    norm.running_var.lerp_(variance * (count / max(1, count - 1)), share)

"""The optimiser of a run: which parameters decay, how fast each layer learns, which kernel."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import Lars
from torch import nn

from unlabel.config import OptimConfig

NET = "backbone.net"
"""Where a method, or a classifier, has its timm network."""
ABOVE = ("norm.", "fc_norm.", "attn_pool.")
"""What follows the last block of a timm network without a classifier."""


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW (fused), LARS or SGD over the parameters that need a gradient.

    Weight decay leaves alone vectors (biases, norms, scales) and what ``model`` or a part of it
    names in ``no_weight_decay`` (timm: position embeddings, class tokens). LARS scales only the
    steps of what may decay, as BYOL and RELICv2 do. The network's layers learn at the rates of
    `layer_scales`, all else at the full rate.

    Args:
        model: has a timm network at ``backbone.net``.
        config: optimiser and rates.

    Returns:
        An optimiser whose groups carry ``lr_scale``, their factor of the run's learning rate, and
        ``decays``, whether weight decay is for them.
    """
    groups = _groups(model, config)
    if config.optimizer == "lars":
        for group in groups:
            group["always_adapt"] = group["decays"]
        return Lars(groups, lr=config.lr, momentum=config.betas[0])
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.betas[0], foreach=True)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def set_weight_decay(optimizer: torch.optim.Optimizer, weight_decay: float) -> None:
    """Give every group that decays this weight decay."""
    for group in optimizer.param_groups:
        if group["decays"]:
            group["weight_decay"] = weight_decay


def layer_scales(net: nn.Module, decay: float) -> dict[str, float]:
    """Factor of the learning rate of each parameter of a timm network without a classifier.

    As in BEiT's fine-tuning (arXiv 2106.08254 and its released code): a classifier and the last
    norm have 1, the last block ``decay``, each block below it another factor, and the stem (patch
    and position embeddings, tokens) one more. Swin's patch merging counts to the block after it.
    timm's own groups give 1 to the last block as well where no classifier follows.
    """
    timms: Any = net
    layers = group_parameters(net, timms.group_matcher(coarse=False), reverse=True)
    last = max(layer for name, layer in layers.items() if not name.startswith(ABOVE))
    return {
        name: 1.0 if name.startswith(ABOVE) else decay ** (last + 1 - layer)
        for name, layer in layers.items()
    }


def _groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Parameters by their factor of the learning rate and whether they decay, the highest first."""
    exempt = _exempt(model)
    layers = layer_scales(model.get_submodule(NET), config.layer_decay)
    scales = {f"{NET}.{name}": scale for name, scale in layers.items()}
    found: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and name not in exempt
            found[scales.get(name, 1.0), decays].append(parameter)
    return [
        {
            "params": found[scale, decays],
            "weight_decay": config.weight_decay if decays else 0.0,
            "lr_scale": scale,
            "decays": decays,
        }
        for scale, decays in sorted(found, reverse=True)
    ]


def _exempt(module: nn.Module) -> set[str]:
    """Full names of the parameters that some sub-module, or the method, exempts from decay."""
    names: set[str] = set()
    for prefix, part in module.named_modules():
        ask = getattr(part, "no_weight_decay", None)
        if callable(ask):
            names |= {f"{prefix}.{name}" if prefix else name for name in ask()}
    return names

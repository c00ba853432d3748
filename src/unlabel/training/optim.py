"""The optimiser of a run: which parameters decay, and which kernel updates them fastest."""

from __future__ import annotations

import torch
from timm.optim import Lars, param_groups_layer_decay
from torch import nn

from unlabel.config import OptimConfig
from unlabel.methods.base import Method


def build_optimizer(method: Method, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW (fused), LARS or SGD over the parameters that need a gradient.

    Weight decay leaves alone vectors (biases, norms, scales), position embeddings and class tokens
    as timm names them, and ``method.no_weight_decay()``. LARS adapts only what decays, as BYOL and
    RELICv2 do. Each group carries ``lr_scale``, its factor of the run's learning rate.
    """
    groups = _layer_groups(method, config) if config.layer_decay < 1 else _groups(method, config)
    if config.optimizer == "lars":
        return Lars(groups, lr=config.lr, momentum=config.betas[0])
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.betas[0], foreach=True)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def set_weight_decay(optimizer: torch.optim.Optimizer, weight_decay: float) -> None:
    """Give every group that decays at all this weight decay."""
    for group in optimizer.param_groups:
        if group["weight_decay"]:
            group["weight_decay"] = weight_decay


def _groups(module: nn.Module, config: OptimConfig) -> list[dict]:
    exempt = _exempt(module)
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            spare = parameter.ndim <= 1 or name in exempt
            (spared if spare else decayed).append(parameter)
    pairs = ((decayed, config.weight_decay), (spared, 0.0))
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": 1.0}
        for parameters, decay in pairs
        if parameters
    ]


def _layer_groups(method: Method, config: OptimConfig) -> list[dict]:
    """The backbone's blocks with decaying rates, and everything above it at the full rate."""
    net = method.backbone.net
    groups = param_groups_layer_decay(
        net,
        weight_decay=config.weight_decay,
        no_weight_decay_list=_exempt(net),
        layer_decay=config.layer_decay,
    )
    held = {id(p) for p in net.parameters()}
    return groups + [
        group | {"params": rest}
        for group in _groups(method, config)
        if (rest := [p for p in group["params"] if id(p) not in held])
    ]


def _exempt(module: nn.Module) -> set[str]:
    """Full names of the parameters that some sub-module, or the method, exempts from decay."""
    names: set[str] = set()
    for prefix, part in module.named_modules():
        ask = getattr(part, "no_weight_decay", None)
        if callable(ask):
            names |= {f"{prefix}.{name}" if prefix else name for name in ask()}
    return names

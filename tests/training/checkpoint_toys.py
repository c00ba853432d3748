"""A small network under every kind of optimiser, to be saved and restored."""

from __future__ import annotations

import timm
import torch
from timm.optim import Lars
from torch import nn

from unlabel.training.checkpoint import parameter_names, save


class Net(nn.Module):
    """A convolution, a norm with buffers, a linear layer, and one parameter that never learns."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, images):
        return self.head(self.norm(self.conv(images)).relu().mean((2, 3)))


def groups_of(net):
    matrices = [p for p in net.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in net.parameters() if p.requires_grad and p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": 0.05, "lr_scale": 0.5},
        {"params": vectors, "weight_decay": 0.0, "lr_scale": 1.0},
    ]


OPTIMIZERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95), fused=False),
    "adamw fused": lambda groups: torch.optim.AdamW(groups, lr=3e-3, fused=True),
    "adamw tensor lr": lambda groups: torch.optim.AdamW(groups, lr=torch.tensor(3e-3)),
    "amsgrad": lambda groups: torch.optim.AdamW(groups, lr=3e-3, amsgrad=True),
    "lars": lambda groups: Lars(groups, lr=0.3, momentum=0.9),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9),
    "nadam": lambda groups: torch.optim.NAdam(groups, lr=3e-3),
    "adafactor": lambda groups: timm.optim.Adafactor(groups, lr=3e-3),
    "lamb": lambda groups: timm.optim.Lamb(groups, lr=3e-3),
}


def build(kind="adamw", dtype=torch.float32, memory_format=torch.contiguous_format, seed=0):
    torch.manual_seed(seed)
    net = Net().to(dtype).to(memory_format=memory_format)
    return net, OPTIMIZERS[kind](groups_of(net))


def update(net, optimizer, step):
    torch.manual_seed(100 + step)
    images = torch.randn(4, 3, 8, 8).to(net.conv.weight.dtype)
    net(images).float().log_softmax(-1)[:, step % 5].mean().neg().backward()
    optimizer.step()
    optimizer.zero_grad()


def save_after(folder, step, net, optimizer, **state):
    return save(folder, step, net.state_dict(), optimizer, parameter_names(net), state)


def assert_same_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        other = theirs[name]
        assert (tensor.dtype, tensor.shape) == (other.dtype, other.shape), name
        same = torch.equal(
            tensor.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)
        )
        assert same, name

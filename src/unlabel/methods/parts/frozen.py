"""Networks that a method uses and never trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from unlabel.backbones.base import Backbone


class Frozen(nn.Module):
    """Networks in evaluation mode, without gradients.

    They go where the module goes that has them (``to``, ``double``), and are otherwise out of
    sight: no checkpoint holds them, as the files that they came from do, and neither optimiser nor
    ``train`` nor the synchronisation of norms reaches them.
    """

    def __init__(self, networks: Sequence[Backbone]) -> None:
        super().__init__()
        # In a list, which torch does not search for modules.
        self.networks = [network.eval().requires_grad_(False) for network in networks]

    def _apply(self, fn: Callable, recurse: bool = True) -> Frozen:
        for network in self.networks:
            network._apply(fn, recurse)
        return super()._apply(fn, recurse)

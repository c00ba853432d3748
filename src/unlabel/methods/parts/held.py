"""Holding a parameter still for a while without leaving it out of the graph."""

from __future__ import annotations

from torch import Tensor


def held(parameter: Tensor, hold: bool = True) -> Tensor:
    """The parameter's value, with a gradient of zeros while it is to be held.

    Processes that train together wait for a gradient of every parameter, so none may be missing.
    """
    return parameter.detach() + 0 * parameter if hold else parameter

"""Methods that match views train every family of backbones; the contract tries the first alone."""

from __future__ import annotations

import pytest
import torch
from test_matching_processes import matching

from contract import test_methods as contract
from unlabel.methods.base import Progress


@pytest.mark.parametrize("model", contract.MODELS)
@pytest.mark.parametrize("name", matching())
def test_a_step_reaches_all_of_the_backbone(name: str, model: str):
    method = contract.build(name, model)
    total = method(contract.batch_for(method, 3), Progress(0, 10)).total
    total.backward()
    method.after_step(Progress(0, 10))
    assert torch.isfinite(total)
    for parameter_name, parameter in method.backbone.named_parameters():
        if "cls_token" not in parameter_name:
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all()

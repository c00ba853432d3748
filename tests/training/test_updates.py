"""What an update of the weights is made with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from unlabel.training.loop import train
from unlabel.training.run import Run
from unlabel.training.schedule import learning_rate, weight_decay


def test_every_update_has_the_schedules_rate_and_decay_and_a_clipped_gradient(
    tmp_path: Path, small_run
):
    optim = small_run.optim.model_copy(
        update={"warmup": 0.5, "weight_decay_end": 0.4, "clip_grad": 1e-3}
    )
    config = small_run.model_copy(update={"optim": optim, "steps": 6})
    seen = []

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        groups = optimizer.param_groups
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
        decays = {group["weight_decay"] for group in groups}
        seen.append(({group["lr"] for group in groups}, decays, norm))

    hook = register_optimizer_step_pre_hook(note)
    try:
        run = Run.create(tmp_path / "run", config, {})
        train(run)
    finally:
        hook.remove()
    rates = [learning_rate(optim, step, 6, config.batch_size) for step in range(6)]
    assert len(set(rates)) > 3
    for step, (lrs, decays, norm) in enumerate(seen):
        assert sorted(lrs) == pytest.approx([rates[step]])
        assert sorted(decays) == pytest.approx([0, weight_decay(optim, step, 6)])
        assert norm == pytest.approx(1e-3, rel=1e-3)
    assert [row["lr"] for row in run.metrics("train")] == pytest.approx(rates)

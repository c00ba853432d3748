"""The largest batch is found by trial steps, halved until one fits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from unlabel.errors import OutOfMemory, UsageError
from unlabel.training import batch_size
from unlabel.training.batch_size import largest_batch


def test_on_a_processor_it_is_a_power_of_two_within_a_quarter_of_the_images(small_run):
    assert largest_batch(small_run) == 16  # 80 images to learn from: 16 <= 20


def limited(monkeypatch, images: int) -> list[int]:
    """Let the device's memory hold so many images; what was tried."""
    tried = []

    def step(size, *, config):
        tried.append(size)
        if size > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return size

    monkeypatch.setattr(batch_size, "_one_step", step)
    return tried


def test_it_halves_until_a_step_fits(small_run, monkeypatch):
    tried = limited(monkeypatch, 5)
    assert largest_batch(small_run) == 4
    assert tried == [16, 8, 4]


def test_a_network_too_large_for_one_image_is_refused(small_run, monkeypatch):
    limited(monkeypatch, 0)
    with pytest.raises(OutOfMemory, match="smaller --model"):
        largest_batch(small_run)


def test_other_errors_of_a_trial_step_are_told(small_run, monkeypatch):
    def step(size, *, config):
        raise RuntimeError("something else")

    monkeypatch.setattr(batch_size, "_one_step", step)
    with pytest.raises(RuntimeError, match="something else"):
        largest_batch(small_run)


def test_several_processes_are_refused_with_what_to_do(small_run, monkeypatch):
    monkeypatch.setattr(batch_size, "processes", lambda: SimpleNamespace(num_processes=4))
    with pytest.raises(UsageError, match="4 times what it finds"):
        largest_batch(small_run)

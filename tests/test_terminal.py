"""What a user reads while a run begins and goes on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from rich.console import Console

from unlabel import terminal
from unlabel.api import pretrain
from unlabel.config import PretrainConfig
from unlabel.data.store import Store
from unlabel.machine import this_machine
from unlabel.methods.base import Progress
from unlabel.reasons import doubts, reasons
from unlabel.terminal import Bar
from unlabel.training.loop import train
from unlabel.training.monitors import Monitors
from unlabel.training.run import Run
from unlabel.training.split import split_store


@pytest.fixture
def said(tmp_path: Path, shapes_store: Path, capsys) -> str:
    """What the terminal shows of a run of two steps, without line breaks."""
    settings = {"options.vocabulary": 16, "workers": 0, "trackers": []}
    pretrain(
        str(shapes_store), method="splitmask", steps=2, out=tmp_path / "run", settings=settings
    )
    return " ".join(capsys.readouterr().err.split())


def test_every_choice_is_told_with_its_reason_and_what_was_asked_without(said: str, tmp_path: Path):
    assert "splitmask on 80 images of store, vit_nano" in said
    assert "As asked: method=splitmask, steps=2, options.vocabulary=16" in said
    for name in ("model.name", "model.image_size", "batch_size", "device", "precision"):
        assert f" {name} " in said
    for name in ("optim.lr", "optim.schedule", "held-out images"):
        assert f" {name} " in said
    assert " steps 2" not in said
    assert Run.open(tmp_path / "run").facts["reasons"]["device"]


def test_what_is_slow_is_told_as_it_begins(said: str):
    prepared = said.index("Preparing splitmask on a sample of 80 images")
    looked = said.index("Looking at the 16 held-out images")
    assert said.index("Chosen for you") < prepared < looked


def test_reasons_follow_from_machine_settings_and_store(small_run: PretrainConfig):
    _, held_out = split_store(small_run)
    config = small_run.model_copy(update={"precision": "fp32"})
    machine = dataclasses.replace(this_machine(), device="cuda", accelerator="Some GPU")
    found = reasons(config, {"optim.lr": "kept"}, ["optim.optimizer"], machine, held_out)
    assert found["device"] == "cuda: Some GPU"
    assert found["precision"].startswith("fp32: ")
    assert found["optim.lr"] == "kept; 16 images a step make it 6.3e-05"
    assert "optim.optimizer" not in found
    assert found["optim.schedule"].endswith("splitmask's recipe, after 1 step of warm-up")
    assert found["held-out images"] == (
        "16: 5% of the images; of few images 16, or a quarter where that is less"
    )
    split = dataclasses.replace(held_out.info, splits={"validation": 9, "test": 4})
    named = reasons(config, {}, (), machine, Store(held_out.path, split, held_out.rows))
    assert named["held-out images"] == "16: of the store's validation split"
    assert named["test images"].startswith("4: left out")
    assert "test images" not in found


def test_collapse_is_warned_of_at_once_and_once(
    tmp_path: Path, small_run: PretrainConfig, monkeypatch: pytest.MonkeyPatch
):
    look = Monitors.look

    def collapsing(self: Monitors, progress: Progress) -> dict[str, float]:
        spread = 0.01 if progress.step in (0, 6, 9) else 0.8
        return {**look(self, progress), "feature_std": spread, "rankme": 9.0}

    monkeypatch.setattr(Monitors, "look", collapsing)
    events: list[str] = []
    run = Run.create(tmp_path / "run", small_run, {})
    train(run, lambda done, *_: events.append(f"step {done}"), events.append)
    warnings = [i for i, event in enumerate(events) if event.startswith("Warning")]
    assert len(warnings) == 1
    assert events[warnings[0] - 1] == "step 6"
    assert "Spread of features 0.010" in events[warnings[0]]
    assert "optim.lr" in events[warnings[0]]


def test_warnings_stand_beside_the_bar(monkeypatch: pytest.MonkeyPatch, capsys):
    screen = Console(stderr=True, force_terminal=True, width=100, highlight=False)
    monkeypatch.setattr(terminal, "console", screen)
    with Bar(show=True) as bar:
        bar.watch(1, 9, 100.0, 0.5)
        bar.tell("Warning: [the] features collapsed")
    with Bar(show=False) as bar:
        bar.watch(1, 9, 100.0, 0.5)
        bar.tell("nothing")
    said = capsys.readouterr().err
    assert "Warning: [the] features collapsed" in said
    assert "1/9" in said
    assert "nothing" not in said


def test_a_log_file_gets_a_line_for_every_tenth(capsys):
    with Bar(show=True) as bar:
        for done in range(1, 101):
            bar.watch(done, 100, 64.0, 0.25)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "10 of 100 steps, 64 images/s, loss 0.2500"
    assert len(said) == 10


def test_doubts_are_told_of_what_works_but_hardly_as_meant(small_run: PretrainConfig):
    size, batch = small_run.model.image_size or 0, small_run.batch_size
    assert list(doubts(small_run, batch, size)) == []
    (many,) = doubts(small_run, batch - 1, size)
    assert f"a batch of {batch} is more than the {batch - 1} images" in many
    (large,) = doubts(small_run, batch, size // 2)
    assert f"images of {size // 2} px are enlarged to {size}" in large

"""The commands and code of the pages run as written, but for their length."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unlabel import api
from unlabel.cli import run

DOCS = Path(__file__).parents[1] / "docs"
SHORT = {
    "pretrain": [
        "--steps",
        "2",
        "--image-size",
        "16",
        "--set",
        "trackers=[]",
        "--set",
        "workers=0",
    ],
    "evaluate": ["--seeds", "1", "--set", "finetune.steps=2"],
}


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[list[str]]:
    lines = [line for block in blocks(page, "") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("unlabel ")]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders that the pages speak of, with images of 16 pixels."""
    rng = np.random.default_rng(0)
    places = ["photos", *(f"labelled/{s}/{c}" for s in ("train", "test") for c in ("cat", "dog"))]
    for place in places:
        (tmp_path / place).mkdir(parents=True)
        for i in range(40 if place == "photos" else 12):
            pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / place / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNLABEL_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("page", ["getting-started.md", "evaluation.md"])
def test_commands_and_code_run_as_written(
    page: str, scratch: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    found = commands(page)
    assert len(found) >= 4
    for arguments in found:
        short = [] if "--resume" in arguments else SHORT.get(arguments[0], [])
        assert run([*arguments, *short]) == 0, (arguments, capsys.readouterr().err)
    _shorten(monkeypatch)
    for number, block in enumerate(blocks(page, "python")):
        script = scratch / f"script{number}.py"
        script.write_text(block)
        runpy.run_path(str(script), run_name="__main__")


def _shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    pretrain, evaluate = api.pretrain, api.evaluate
    few = {"steps": 2, "epochs": None, "image_size": 16, "settings": {"trackers": [], "workers": 0}}
    budget = {"seeds": 1, "settings": {"finetune.steps": 2}}
    monkeypatch.setattr(api, "pretrain", lambda *data, **asked: pretrain(*data, **asked | few))
    monkeypatch.setattr(api, "evaluate", lambda *data, **asked: evaluate(*data, **asked | budget))

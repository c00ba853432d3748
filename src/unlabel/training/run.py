"""A run is a folder in open formats; this is its only reader and writer.

``config.yaml`` (settings), ``run.json`` (data, model, machine, reasons), ``metrics.jsonl``,
``checkpoints/``, ``verdict.json``, ``results.json``, ``export/`` and ``report.html``; ``stages/``
where it learns from other runs (DnC).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from unlabel.atomic import TEMPORARY, check_writable, write_text_atomic
from unlabel.config import PretrainConfig, validated
from unlabel.errors import ConfigError, InputMissing, OutputExists

CONTENTS = frozenset(
    [
        "config.yaml",
        "run.json",
        "metrics.jsonl",
        "verdict.json",
        "results.json",
        "report.html",
        ".lock",
        ".holder",
        "checkpoints",
        "export",
        "previews",
        "stages",
        "logs",
        "wandb",
        "mlruns",
    ]
)
"""All that a run's folder holds at its top, with the folders that trackers write."""


class Run:
    """A pre-training run, opened by its folder."""

    def __init__(self, path: Path, config: PretrainConfig) -> None:
        self.path = path
        self.config = config

    def __fspath__(self) -> str:
        """A run stands for its folder wherever a path is wanted."""
        return str(self.path)

    @staticmethod
    def check_place(path: Path, overwrite: bool = False) -> None:
        """Look whether a new run can begin in ``path``; nothing is touched.

        Raises:
            OutputExists: something is there that must stay, or the folder cannot be made.
        """
        if path.is_dir() and overwrite:
            _refuse_foreign(path)
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise OutputExists(
                f"{path} is there already, and nothing is overwritten unasked. Continue it with "
                f"--resume {path}, choose another --out, or replace it with --overwrite."
            )
        check_writable(path)

    @classmethod
    def create(cls, path: Path, config: PretrainConfig, facts: dict[str, Any]) -> Run:
        """Make a new run's folder.

        Raises:
            OutputExists: the folder has something in it already.
        """
        cls.check_place(path)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path, config)
        run.write_json("run.json", facts)
        # Last: a folder without its settings is no run yet.
        write_text_atomic(
            path / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        )
        return run

    @classmethod
    def open(cls, path: os.PathLike[str] | str) -> Run:
        """Open a run.

        Raises:
            InputMissing: there is no run at ``path``.
            ConfigError: its settings cannot be read by this version.
        """
        path = Path(path)
        settings = path / "config.yaml"
        if not settings.is_file():
            raise InputMissing(f"{path} is not a run: it has no config.yaml.")
        try:
            values = yaml.safe_load(settings.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{settings} is damaged and cannot be read: {error}") from None
        return cls(path, validated(PretrainConfig, values, str(settings)))

    @staticmethod
    def remove(path: Path) -> None:
        """Remove the run at ``path``, whole or just begun, and nothing that is not a run.

        Raises:
            OutputExists: the folder is no run, or holds something that no run writes.
        """
        _refuse_foreign(path)
        shutil.rmtree(path)

    @property
    def checkpoints(self) -> Path:
        """The folder that holds the checkpoints."""
        return self.path / "checkpoints"

    @property
    def facts(self) -> dict[str, Any]:
        """What was known when the run began: data, model, machine and reasons."""
        return self.read_json("run.json") or {}

    @property
    def steps_in_all(self) -> int:
        """Updates, together with those of the stages that the run learns from (DnC)."""
        return sum(self.facts.get("stages", {"own": self.config.steps}).values())

    def read_json(self, name: str) -> Any:
        """A JSON file of the run, or ``None`` where it has not been written."""
        file = self.path / name
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the run, whole or not at all."""
        write_text_atomic(self.path / name, json.dumps(value, indent=2) + "\n")

    def metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The rows of ``metrics.jsonl`` in order, all or of one kind ("train", "monitor").

        A line that is damaged, such as the last one of a run that was killed, is left out.
        """
        rows = []
        for line in self._metric_lines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if kind is None or row["kind"] == kind:
                rows.append(row)
        return rows

    def append_metrics(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows to ``metrics.jsonl``."""
        text = "".join(json.dumps(row) + "\n" for row in rows)
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(text)

    def truncate_metrics(self, step: int) -> None:
        """Forget what was logged after ``step`` updates, before a resumed run logs it again."""
        rows = [row for row in self.metrics() if _belongs(row, step)]
        write_text_atomic(
            self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows)
        )

    def _metric_lines(self) -> list[str]:
        file = self.path / "metrics.jsonl"
        if not file.is_file():
            return []
        return file.read_text(encoding="utf-8", errors="replace").splitlines()


def _refuse_foreign(path: Path) -> None:
    """Raise OutputExists for a folder that is no run, or that holds what no run writes."""
    names = {p.name for p in path.iterdir() if not p.name.startswith(TEMPORARY)}
    if foreign := sorted(names - CONTENTS):
        raise OutputExists(
            f"{path} holds {foreign[0]}, which no run writes, so --overwrite does not remove "
            "it. Choose another --out, or move your files away."
        )
    if names and "run.json" not in names:
        raise OutputExists(
            f"{path} is not a run, so --overwrite does not remove it. Choose another --out."
        )


def _belongs(row: dict[str, Any], step: int) -> bool:
    """Whether a row was logged in the first ``step`` updates.

    Training rows carry the number of the update (from 0); monitors the number of updates done. A
    run without a checkpoint starts anew, its first look included.
    """
    return row["step"] < step or (row["kind"] == "monitor" and row["step"] == step > 0)

"""A study is a folder in open formats; this is its only reader and writer.

``plan.json`` (what was asked and every run that it comes to), ``rows/`` (the images of each
fraction), ``runs/`` (a folder a run, as of ``unlabel pretrain``), ``outcomes/`` (a file a run that
ended, well or not), and the table of finished runs, ``runs.csv`` and ``runs.parquet``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from unlabel.atomic import TEMPORARY, check_writable, write_bytes_atomic, write_text_atomic
from unlabel.config import PretrainConfig, explain
from unlabel.errors import DataError, InputMissing, OutputExists
from unlabel.study.plan import Plan, PlannedRun, StudyConfig

PLAN = "plan.json"
BEGUN = frozenset({"rows", ".lock", ".holder"})
"""What a study's folder may hold before it has a plan: its making was cut short."""


class Study:
    """A study, opened by its folder."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self.plan = plan

    @classmethod
    def create(cls, path: Path, plan: Plan, rows: Mapping[float, np.ndarray]) -> Study:
        """Make a new study's folder; ``rows`` by fraction, each for its file in the plan.

        Raises:
            OutputExists: the folder has something in it already.
        """
        cls.check_place(path)
        return cls._write(path, plan, rows)

    @classmethod
    def _write(cls, path: Path, plan: Plan, rows: Mapping[float, np.ndarray]) -> Study:
        files = {run.fraction: run.config.rows for run in plan.runs}
        for share, found in rows.items():
            content = io.BytesIO()
            np.save(content, found)
            write_bytes_atomic(Path(str(files[share])), content.getvalue())
        # Last: a folder without its plan is no study yet.
        write_text_atomic(path / PLAN, plan.model_dump_json(indent=1) + "\n")
        return cls(path, plan)

    @classmethod
    def open(cls, path: Path) -> Study:
        """Open a study.

        Raises:
            InputMissing: there is none at ``path``.
            ConfigError: its plan cannot be read by this version.
        """
        file = path / PLAN
        if not file.is_file():
            raise InputMissing(f"{path} is not a study: it has no {PLAN}.")
        try:
            return cls(path, _at(path, Plan.model_validate_json(file.read_bytes())))
        except ValidationError as error:
            raise explain(error, str(file), Plan) from None

    @staticmethod
    def is_at(path: Path) -> bool:
        """Whether there is a study at ``path``."""
        return (path / PLAN).is_file()

    @staticmethod
    def check_place(path: Path) -> None:
        """Look whether a new study can begin in ``path``.

        Raises:
            OutputExists: something else is there.
        """
        there = path.iterdir() if path.is_dir() else filter(Path.exists, [path])
        if any(p.name not in BEGUN and not p.name.startswith(TEMPORARY) for p in there):
            raise OutputExists(f"{path} is there already and is no study. Choose another --out.")
        check_writable(path)

    def check_growth(self, plan: Plan) -> None:
        """Look whether ``plan`` has all runs of this study as they are, and maybe more.

        Raises:
            OutputExists: a run of this study is not in it, or would be another.
        """
        wanted = {run.name: run for run in plan.runs}
        ours = [(run, wanted.get(run.name)) for run in self.plan.runs]
        same = all(other and _alike(run) == _alike(other) for run, other in ours)
        if not same or plan.asked.protocols != self.plan.asked.protocols:
            raise OutputExists(
                f"{self.path} holds a study that was asked to be another:\n"
                + "\n".join([*_differences(self.plan.asked, plan.asked), *_changed(ours)])
                + "\nIt can be given more models, methods, fractions and seeds if all else stays. "
                f"Continue it as it is with --resume {self.path}, or choose another --out."
            )

    def grown(self, plan: Plan, rows: Mapping[float, np.ndarray]) -> Study:
        """This study with the further runs of ``plan``, which `check_growth` let pass."""
        own = {run.name: run for run in self.plan.runs}
        runs = tuple(own.get(run.name, run) for run in plan.runs)
        return self._write(self.path, plan.model_copy(update={"runs": runs}), rows)

    def refuse_other_images(self, fingerprint: str) -> None:
        """Raise DataError where the store no longer holds the images that the study began with."""
        if fingerprint != self.plan.fingerprint:
            raise DataError(
                f"{self.plan.asked.data} holds other images than {self.path} began with. Put the "
                "store back as it was, or start a new study."
            )

    def refuse_other_rows(self) -> None:
        """Raise DataError where the files of the shares are not those of the plan."""
        for run in {run.fraction: run for run in self.plan.runs}.values():
            file, count = Path(str(run.config.rows)), self.plan.images[run.fraction]
            try:
                found = len(np.load(file, allow_pickle=False))
            except (OSError, ValueError) as error:
                raise DataError(f"{file} cannot be read: {error}. Put it back.") from None
            if found != count:
                raise DataError(
                    f"{file} has {found:,} rows, and the study began with {count:,}. Put it back."
                )

    def folder_of(self, name: str) -> Path:
        """Where a run stands, or will stand."""
        return self.path / "runs" / name

    def outcome(self, name: str) -> dict[str, Any] | None:
        """How a run ended: ``state`` "failed" with its ``reason``, or "done" with its ``row``.

        ``measuring`` are the seconds that the row's figures took.
        """
        file = self._outcome_file(name)
        if not file.is_file():
            return None
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            known = {"done": "row", "failed": "reason"}[found["state"]] in found
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            raise DataError(f"{file} is damaged. Remove it: the run is then measured again.")
        return found

    def record(self, name: str, outcome: Mapping[str, Any]) -> None:
        """Write how a run ended, whole or not at all; it is not trained again."""
        write_text_atomic(self._outcome_file(name), json.dumps(outcome, indent=1) + "\n")

    def left(self) -> list[PlannedRun]:
        """The runs that have not ended, in the order of the plan."""
        return [run for run in self.plan.runs if self.outcome(run.name) is None]

    def rows(self) -> list[dict[str, Any]]:
        """The table: a row a finished run, in the order of the plan."""
        found = (self.outcome(run.name) for run in self.plan.runs)
        return [outcome["row"] for outcome in found if outcome and outcome["state"] == "done"]

    @property
    def table(self) -> Path:
        """The table of its finished runs, as CSV.

        Raises:
            DataError: no run has ended yet.
        """
        if not self.rows():
            raise DataError(
                f"No run of {self.path} has ended yet; unlabel study status {self.path} says how "
                "far it is."
            )
        return self.path / "runs.csv"

    def _outcome_file(self, name: str) -> Path:
        return self.path / "outcomes" / f"{name}.json"


def _at(path: Path, plan: Plan) -> Plan:
    """The plan, with the files of the shares where the study stands now: it may have been moved."""
    folder = path.absolute() / "rows"
    runs = []
    for run in plan.runs:
        rows = folder / Path(str(run.config.rows)).name
        config = run.config.model_copy(update={"rows": rows})
        runs.append(run.model_copy(update={"config": config}))
    return plan.model_copy(update={"runs": tuple(runs)})


def _alike(run: PlannedRun) -> dict[str, Any]:
    """What makes it one run and not another: not how many processes read its images."""
    return run.model_dump(exclude={"config": {"workers"}})


def _changed(pairs: list[tuple[PlannedRun, PlannedRun | None]]) -> list[str]:
    """The settings that differ between runs of one name."""
    configs = [(ours.config, theirs.config) for ours, theirs in pairs if theirs]
    return [
        f"  its runs' {name}"
        for name in PretrainConfig.model_fields
        if name != "workers" and any(getattr(a, name) != getattr(b, name) for a, b in configs)
    ]


def _differences(ours: StudyConfig, theirs: StudyConfig) -> list[str]:
    """A line for each thing that was asked for otherwise."""
    there, here = ours.model_dump(), theirs.model_dump()
    return [
        f"  {name}: {_told(there[name])} there, {_told(here[name])} here"
        for name in there
        if there[name] != here[name]
    ]


def _told(value: Any) -> str:
    """A value of the plan as it is typed."""
    if isinstance(value, dict):
        return ", ".join(f"{name}={setting}" for name, setting in value.items()) or "none"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)

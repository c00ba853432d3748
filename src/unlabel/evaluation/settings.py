"""What an evaluation measures, how often, and with which budgets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from unlabel.config import Settings
from unlabel.evaluation.finetune import FinetuneConfig
from unlabel.evaluation.labels import ALL, parse_size
from unlabel.evaluation.linear_sgd import LinearSGDConfig

Protocol = Literal["knn", "linear", "linear-sgd", "finetune"]


class EvaluationConfig(Settings):
    """Protocols, numbers of labels, seeds and budgets."""

    protocols: tuple[Protocol, ...] = ("knn", "linear", "finetune")
    """Which to measure with; docs/evaluation.md has what each does."""
    labels: tuple[str, ...] = ("1%", "10%", "all")
    """Labels to learn from: "5" a class, "10%", or "all" (which "100%" becomes)."""
    seeds: int = Field(3, ge=1)
    """Repetitions with other labels, heads and orders."""
    seeds_all: int = Field(1, ge=1)
    """Repetitions of fine-tuning and the SGD probe when all labels are used. kNN and the L-BFGS
    probe would repeat themselves then, and run once."""
    seed: int = Field(0, ge=0, lt=2**31)
    """The first seed; the others follow it."""
    k: int = Field(20, ge=1)
    """Neighbours that vote in kNN; all labelled images where there are fewer."""
    temperature: float = Field(0.07, gt=0)
    """Of kNN's votes."""
    finetune: FinetuneConfig = FinetuneConfig()
    linear_sgd: LinearSGDConfig = LinearSGDConfig()
    batch_size: int = Field(256, ge=1)
    """Images embedded at a time."""
    workers: int = Field(0, ge=0)
    """Processes that read images."""

    @field_validator("labels")
    @classmethod
    def _one_spelling(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        """All labels under one name, so that results of several evaluations stand together.

        Raises:
            UsageError: a size cannot be read; told before any image is.
        """
        for size in labels:
            parse_size(size)
        return tuple(ALL[0] if size.strip().lower() in ALL else size for size in labels)

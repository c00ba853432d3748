"""From the grid that was asked for to the runs that it comes to, and which of them share a trunk.

Runs that differ in nothing but their length have the same constant learning rate for most of it:
the longest is trained whole and keeps a checkpoint wherever a shorter one leaves it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np

from unlabel.asked import check
from unlabel.backbones.build import family_of
from unlabel.config import PretrainConfig
from unlabel.data.store import Store
from unlabel.errors import ConfigError
from unlabel.machine import Machine
from unlabel.methods.registry import get_method
from unlabel.pretraining import name_of
from unlabel.rules import choose
from unlabel.study.plan import Plan, PlannedRun, StudyConfig
from unlabel.training.schedule import shared_steps, warmup_steps
from unlabel.training.split import FEWEST, split_store

SEED = 0
"""Of the fractions and the held-out images: those of all runs, whatever their own seed."""
STAGES = "stages"
"""Option of methods whose run is several."""


def check_asked(asked: StudyConfig) -> None:
    """Refuse every method, model and setting that cannot work, before any image is read.

    Raises:
        ConfigError: something is unknown, a method cannot train a model, or trains in stages.
        InputMissing: weights or a tracker are not there.
    """
    for method, model in product(asked.methods, asked.models):
        check(_settings(asked, method, model))
        if STAGES in get_method(method).Options.model_fields:
            raise ConfigError(
                f"methods: {method} trains several networks one after another, which a study does "
                "not. Compare it with other runs by unlabel evaluate."
            )


def make_plan(
    asked: StudyConfig, store: Store, machine: Machine, folder: Path
) -> tuple[Plan, dict[float, np.ndarray]]:
    """All runs of the study, and the rows of each fraction.

    Args:
        asked: checked by `check_asked`.
        store: its images.
        machine: where the study begins; chooses what was not asked for.
        folder: the study's, where files of rows will stand.

    Raises:
        ConfigError: the smallest fraction has fewer images than a batch, or two have the same.
    """
    wanted = [
        _settings(asked, method, model) for method, model in product(asked.methods, asked.models)
    ]
    first = choose(store, machine, wanted[0]).config
    learn, held_out = split_store(_judged_alike(first))
    rows = {share: learn.fraction(share, SEED).ids for share in asked.fractions}
    _refuse_equal_shares(rows)
    batch = _batch_size(asked, first, len(rows[asked.fractions[0]]))
    kinds = [choose(store, machine, {**w, "batch_size": batch}).config for w in wanted]
    runs = [
        run
        for seed, share, kind in product(range(asked.seeds), asked.fractions, kinds)
        for run in _lengths(asked, _of_share(kind, folder, share, seed), share)
    ]
    _refuse_equal_names(runs)
    plan = Plan(
        asked=asked,
        fingerprint=store.fingerprint,
        dataset=name_of(store),
        images={share: len(found) for share, found in rows.items()},
        held_out=len(held_out),
        runs=tuple(runs),
        notes=(*_notes(asked, kinds), *_cautions(asked, kinds, len(rows[asked.fractions[-1]]))),
    )
    return plan, rows


def rows_file(folder: Path, share: float) -> Path:
    """Where the rows of a fraction stand."""
    return folder.absolute() / "rows" / f"{_short(share)}.npy"


def _short(share: float) -> str:
    """A share as it is typed, with all digits that it needs."""
    return f"{share:g}" if float(f"{share:g}") == share else repr(share)


def _refuse_equal_shares(rows: dict[float, np.ndarray]) -> None:
    for (small, few), (large, more) in pairwise(rows.items()):
        if len(few) == len(more):
            raise ConfigError(
                f"fractions: {_short(small)} and {_short(large)} come to the same {len(few):,} "
                "images. Leave one out, or choose shares that lie further apart."
            )


def _refuse_equal_names(runs: Sequence[PlannedRun]) -> None:
    twice = [name for name, count in Counter(run.name for run in runs).items() if count > 1]
    if twice:
        raise ConfigError(f"models: two of them would be called {twice[0]}. Leave one out.")


def _settings(asked: StudyConfig, method: str, model: str) -> dict[str, Any]:
    """What is asked of every run of one method and model, by dotted names."""
    longest = {"method": method, "model.name": model, "steps": asked.lengths[-1]}
    return {"trackers": [], **asked.settings, **longest}


def _judged_alike(config: PretrainConfig) -> PretrainConfig:
    return config.model_copy(update={"validation_seed": SEED})


def _batch_size(asked: StudyConfig, chosen: PretrainConfig, smallest: int) -> int:
    """As asked, or as the rules say; the same for all runs, and never above the smallest fraction.

    Raises:
        ConfigError: the batch asked for is, or there are too few images to learn from at all.
    """
    share, size = asked.fractions[0], chosen.batch_size
    if smallest < FEWEST:
        raise ConfigError(
            f"fractions: {share:g} leaves {smallest} images to learn from, and {FEWEST} are needed."
            " Give a larger share."
        )
    if "batch_size" not in asked.settings:
        return min(size, 1 << (smallest.bit_length() - 1))
    if size > smallest:
        raise ConfigError(
            f"batch_size: {size} is more than the {smallest} images of the smallest fraction, "
            f"{share:g}. Use a smaller --batch-size or a larger share."
        )
    return size


def _of_share(config: PretrainConfig, folder: Path, share: float, seed: int) -> PretrainConfig:
    found = {"rows": rows_file(folder, share), "seed": seed}
    return _judged_alike(config.model_copy(update=found))


def _lengths(asked: StudyConfig, config: PretrainConfig, share: float) -> Iterator[PlannedRun]:
    """The runs of one method, model, share and seed: the longest first, which the others leave."""
    warm = warmup_steps(config.optim, asked.lengths[0])
    optim = config.optim.model_copy(update={"warmup_steps": warm})
    config = config.model_copy(update={"optim": optim})
    *shorter, longest = asked.lengths
    shared = {length: _shared(config, length, longest) for length in shorter}
    keep = tuple(sorted({begins for begins in shared.values() if begins}))
    for length in reversed(asked.lengths):
        begins = shared.get(length, 0)
        kept = keep if length == longest else ()
        yield PlannedRun(
            name=_name(config, share, length),
            model=config.model.name,
            fraction=share,
            method=config.method,
            seed=config.seed,
            config=config.model_copy(update={"steps": length, "keep": kept}),
            trunk=_name(config, share, longest) if begins else None,
            shared=begins,
        )


def _shared(config: PretrainConfig, short: int, long: int) -> int:
    """Updates that begin both runs alike; the last is the shorter's own, and ends it as any."""
    if get_method(config.method).horizon:
        return 0
    return min(short - 1, shared_steps(config.optim, short, long, config.batch_size))


def _notes(asked: StudyConfig, kinds: Sequence[PretrainConfig]) -> Iterator[str]:
    """Why runs are trained alone, where they are."""
    if len(asked.lengths) == 1:
        return
    for config in {config.method: config for config in kinds}.values():
        alone = "its runs of different lengths share nothing and are trained alone."
        if get_method(config.method).horizon:
            yield f"{config.method}: what it learns towards follows from a run's length, so {alone}"
        elif config.optim.weight_decay_end is not None:
            yield f"{config.method}: its weight decay changes over the whole run, so {alone}"
        elif config.optim.schedule == "cosine":
            yield (
                f"{config.method}: a cosine schedule falls over the whole run, so {alone} "
                "--schedule step or constant would let them share most of it."
            )


def _cautions(asked: StudyConfig, kinds: Sequence[PretrainConfig], images: int) -> Iterator[str]:
    """What would keep the table from telling what it is asked."""
    families = {family_of(config.model).__name__ for config in kinds}
    if len(families) > 1:
        yield (
            f"the models are of {len(families)} families ({', '.join(sorted(families))}): what a "
            "larger model brings cannot be told from what another kind of model does."
        )
    seen = asked.lengths[-1] * kinds[0].batch_size
    if seen < images:
        yield (
            f"the longest runs see {seen:,} images, fewer than the {images:,} of the largest "
            "share: what more images bring will not show."
        )


def _name(config: PretrainConfig, share: float, length: int) -> str:
    model = re.sub(r"[^A-Za-z0-9_.-]+", "-", config.model.name).strip("-.")
    return f"{config.method}-{model}-{_short(share)}-{length}-s{config.seed}"

"""From a grid to runs: which images each learns from, what it is judged by, what it shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from study_toys import asked, plan_of, study_of

from unlabel.config import validated
from unlabel.data.store import Store
from unlabel.errors import ConfigError, UnlabelError
from unlabel.study.grid import check_asked
from unlabel.study.plan import Plan, StudyConfig
from unlabel.study.trunks import begin
from unlabel.training.setup import assemble
from unlabel.training.split import split_store


def test_fractions_are_nested_stratified_and_without_held_out_images(
    tmp_path: Path, shapes_store: Path
):
    study = study_of(tmp_path / "study", asked(shapes_store, fractions=[0.1, 0.25, 0.5, 1]))
    labels = Store.open(shapes_store).labels
    found = []
    for share, count in study.plan.images.items():
        config = next(run.config for run in study.plan.runs if run.fraction == share)
        learn, held_out = split_store(config)
        assert len(learn) == count
        assert not set(learn.ids) & set(held_out.ids)
        classes = np.bincount(labels[learn.ids], minlength=6)
        assert classes.max() - classes.min() <= max(1, count / 12)
        found.append(set(learn.ids))
    assert found[0] < found[1] < found[2] < found[3]
    assert len(found[3]) == 96 - study.plan.held_out


def test_all_runs_are_judged_by_the_same_images_crops_and_masks(tmp_path: Path, shapes_store: Path):
    study = study_of(tmp_path / "study", asked(shapes_store, seeds=2, lengths=[2, 4]))
    seen = []
    for planned in study.plan.runs:
        if planned.trunk is None:
            batches = assemble(begin(study, planned)).monitors._batches
            seen.append(batches)
    assert len(seen) == 4
    for batches in seen[1:]:
        for ours, first in zip(batches, seen[0], strict=True):
            assert torch.equal(ours.ids, first.ids)
            assert torch.equal(ours.views["images"], first.views["images"])
            assert torch.equal(ours.masks["images"], first.masks["images"])


def test_runs_that_differ_only_in_length_share_what_is_at_a_constant_rate(
    tmp_path: Path, shapes_store: Path
):
    plan = plan_of(tmp_path, asked(shapes_store, lengths=[80, 160, 320], fractions=[1]))
    long, middle, short = plan.runs
    assert [run.config.steps for run in plan.runs] == [320, 160, 80]
    assert [run.shared for run in plan.runs] == [0, 140, 70]
    assert long.config.keep == (70, 140)
    assert middle.trunk == short.trunk == long.name
    assert plan.steps == 320 + 20 + 10
    assert plan.steps_alone == 560
    assert {run.config.optim.warmup_steps for run in plan.runs} == {1}


@pytest.mark.parametrize(
    ("grid", "settings", "why"),
    [
        ({"methods": ["dino"]}, {}, "length"),
        ({}, {"optim.schedule": "cosine"}, "cosine"),
        ({}, {"optim.weight_decay_end": 0.4}, "weight decay"),
    ],
)
def test_what_cannot_be_shared_is_trained_alone_and_said_so(
    tmp_path: Path, shapes_store: Path, grid: dict, settings: dict, why: str
):
    plan = plan_of(tmp_path, asked(shapes_store, settings, **grid))
    assert plan.steps == plan.steps_alone
    assert all(run.trunk is None and not run.config.keep for run in plan.runs)
    [note] = plan.notes
    assert why in note


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        ({"models": ["vit_nano", "swinv2_nano"]}, "of 2 families (SwinV2, ViT)"),
        ({"lengths": [2, 4]}, "see 32 images, fewer than the"),
    ],
)
def test_what_keeps_the_table_from_telling_is_said(
    tmp_path: Path, shapes_store: Path, grid: dict, told: str
):
    settings = {"model.arguments": {}, "model.image_size": 32}
    plan = plan_of(tmp_path, asked(shapes_store, settings, **grid))
    assert [note for note in plan.notes if told in note]


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        ({"fractions": [0.501, 0.502]}, r"0.501 and 0.502 come to the same \d+ images"),
        ({"models": ["vit_nano", "./vit_nano"]}, "vit_nano"),
    ],
)
def test_runs_that_would_be_one_are_refused(
    tmp_path: Path, shapes_store: Path, grid: dict, told: str
):
    with pytest.raises(ConfigError, match=told):
        plan_of(tmp_path, asked(shapes_store, **grid))


def test_a_batch_that_differs_from_model_to_model_is_refused(shapes_store: Path):
    with pytest.raises(ValidationError, match="give a number"):
        asked(shapes_store, {"batch_size": "auto"})


def test_a_share_keeps_its_digits(tmp_path: Path, shapes_store: Path):
    plan = plan_of(tmp_path, asked(shapes_store, fractions=[0.33333333, 1]))
    assert {run.config.rows.name for run in plan.runs} == {"0.33333333.npy", "1.npy"}


def test_a_grid_crosses_everything_and_names_every_run_once(tmp_path: Path, shapes_store: Path):
    config = asked(
        shapes_store, models=["vit_nano", "vit_micro"], methods=["simmim", "mae"], seeds=3
    )
    plan = plan_of(tmp_path, config)
    assert len(plan.runs) == len({run.name for run in plan.runs}) == 2 * 2 * 2 * 3 * 3
    assert {run.config.seed for run in plan.runs} == {0, 1, 2}
    order = [run.name for run in plan.runs]
    assert all(order.index(run.trunk) < order.index(run.name) for run in plan.runs if run.trunk)


def test_a_plan_is_the_same_when_it_is_read_back(tmp_path: Path, shapes_store: Path):
    plan = plan_of(tmp_path, asked(shapes_store))
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_a_batch_that_was_not_asked_for_fits_the_smallest_fraction(
    tmp_path: Path, shapes_store: Path
):
    config = asked(shapes_store, fractions=[0.15, 1])
    free = {name: value for name, value in config.settings.items() if name != "batch_size"}
    plan = plan_of(tmp_path, config.model_copy(update={"settings": free}))
    assert plan.images[0.15] == 15
    assert {run.config.batch_size for run in plan.runs} == {8}


GRID = {"models": ["vit_nano"], "lengths": [4, 8], "data": "."}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": []}, "models: give at least one"),
        ({"models": ["vit_nano", "vit_nano"]}, "vit_nano is given twice"),
        ({"models": ["vit_nan"]}, "vit_nan"),
        ({"methods": ["simim"]}, "simmim"),
        ({"models": ["resnet18"]}, "cannot train"),
        ({"fractions": [0, 0.5]}, "fractions"),
        ({"fractions": [0.5, 1.2]}, "fractions"),
        ({"fractions": [0.5, 0.1]}, "increase"),
        ({"lengths": [8, 4]}, "increase"),
        ({"lengths": [4, 4]}, "4 is given twice"),
        ({"lengths": [0, 4]}, "lengths"),
        ({"seeds": 0}, "seeds"),
        ({"settings": {"steps": 5}}, "steps is the study's"),
        ({"settings": {"optim.lrr": 5}}, "Did you mean lr"),
        ({"settings": {"options.ratio": 5}}, "mask_ratio"),
    ],
)
def test_what_cannot_work_is_refused_before_images_are_read(changes: dict, message: str):
    with pytest.raises(UnlabelError, match=message):
        check_asked(validated(StudyConfig, {**GRID, **changes}, "The study"))


@pytest.mark.parametrize(
    ("fractions", "settings", "message"),
    [([0.1, 1], {"batch_size": 16}, "batch_size: 16 is more than"), ([0.01, 1], {}, "fractions")],
)
def test_fractions_too_small_are_refused(
    tmp_path: Path, shapes_store: Path, fractions: list, settings: dict, message: str
):
    config = asked(shapes_store, settings, fractions=fractions)
    with pytest.raises(ConfigError, match=message):
        plan_of(tmp_path, config)

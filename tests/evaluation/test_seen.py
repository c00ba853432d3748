"""Test images that a run was pre-trained on are counted, and said wherever its figures stand."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from rich.console import Console
from tiny_network import network

from unlabel.data.ingest import ingest
from unlabel.data.store import Store
from unlabel.evaluating import evaluate_run, subjects
from unlabel.evaluation.evaluate import evaluate
from unlabel.evaluation.results import Result, Results
from unlabel.evaluation.settings import EvaluationConfig
from unlabel.evaluation.subjects import pretrained, untrained
from unlabel.evaluation.trial import Trial
from unlabel.report.page import render
from unlabel.training.loop import train
from unlabel.training.run import Run

QUICK = EvaluationConfig(protocols=("knn",), labels=("all",))


@pytest.fixture(scope="module")
def halves(shapes_store):
    store = Store.open(shapes_store)
    return store.select(np.arange(48)), store.select(np.arange(48, 96))


@pytest.mark.parametrize("count", [0, 1, 48])
def test_images_in_both_are_counted(halves, count):
    train_half, test = halves
    learnt_from = train_half if count == 0 else Store(test.path, test.info, test.rows[-count:])
    found = {"mine": pretrained(network(), learnt_from), "untrained": untrained(network())}
    results = evaluate(found, train_half, test, QUICK, progress=False)
    assert results.get("mine", "knn", "all").seen == count
    assert results.get("untrained", "knn", "all").seen is None
    assert len(results.warnings()) == (count > 0)
    if count:
        [warning] = results.warnings()
        assert f"mine has seen {count} of the 48 test images" in warning


def leaky() -> Results:
    known = {"train_images": 5, "test": "ab"}
    found = [
        Result.of("[b]mine[/b]", protocol, "all", np.ones((1, 9), bool), seen=3, **known)
        for protocol in ("knn", "linear")
    ]
    return Results(found)


def test_the_warning_stands_in_the_table_once(capsys):
    Console(width=400).print(leaky().table())
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("Warning: [b]mine[/b] has seen 3 of the 9 test images") == 1


def test_the_warning_is_saved_and_stands_on_the_page(tmp_path):
    leaky().save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json").warnings() == leaky().warnings()
    assert "has seen 3 of the 9 test images" in render(tmp_path)


def test_a_page_without_a_leak_does_not_warn(tmp_path):
    known = {"train_images": 5, "test": "ab", "seen": 0}
    Results([Result.of("a", "knn", "all", np.ones((1, 9), bool), **known)]).save(
        tmp_path / "results.json"
    )
    assert 'class="warning"' not in render(tmp_path)


def test_results_of_earlier_versions_do_not_know(tmp_path):
    leaky().save(tmp_path / "results.json")
    rows = json.loads((tmp_path / "results.json").read_text())
    for row in rows:
        del row["seen"]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    loaded = Results.load(tmp_path / "results.json")
    assert [r.seen for r in loaded] == [None, None]
    assert not loaded.warnings()


@pytest.fixture
def trained(tmp_path, small_run):
    """A short run on a store of its own, and the settings it had."""
    shutil.copytree(small_run.data, tmp_path / "store")
    config = small_run.model_copy(update={"data": tmp_path / "store", "steps": 2})
    facts = {"data": {"fingerprint": Store.open(config.data).fingerprint}}
    run = Run.create(tmp_path / "run", config, facts)
    train(run)
    return run


def test_a_run_has_learnt_from_all_but_what_was_held_out(trained, shapes_store):
    results = evaluate_run(trained, str(shapes_store), None, QUICK)
    mine = results.get("pre-trained (splitmask)", "knn", "all")
    store = Store.open(shapes_store)
    held_out = store.holdout(1 / 6, 16, trained.config.seed)[1].ids
    assert mine.images - len(held_out) <= mine.seen < mine.images
    assert "test images in training" in (trained.path / "report.html").read_text()


def test_a_run_that_kept_the_test_images_apart(tmp_path, small_run, shapes_store):
    store = Store.open(shapes_store)
    pixels = np.stack([store.image(i) for i in range(len(store))])
    for split, rows in (("train", range(72)), ("test", range(72, 96))):
        folder = tmp_path / "images" / split
        folder.mkdir(parents=True)
        np.savez(folder / "x.npz", images=pixels[rows], labels=store.labels[rows])
    sources = [tmp_path / "images" / split / "x.npz" for split in ("train", "test")]
    parts = []
    for source in sources:
        out = source.with_suffix(".store")
        ingest([source], out, progress=False, workers=1)
        parts.append(out)
    run = Run.create(tmp_path / "run", small_run.model_copy(update={"data": parts[0]}), {})
    train(run)
    results = evaluate_run(run, str(parts[0]), str(parts[1]), QUICK)
    assert results.get("pre-trained (splitmask)", "knn", "all").seen == 0
    assert not results.warnings()


def test_what_a_stopped_evaluation_measured_stays(trained, shapes_store, monkeypatch, capsys):
    class Stopped(BaseException):
        """As if somebody pressed Ctrl-C at the second figure."""

    earlier = evaluate_run(trained, str(shapes_store), None, QUICK)
    predict, calls = Trial.predict, []

    def one_figure(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise Stopped
        return predict(*arguments)

    monkeypatch.setattr(Trial, "predict", one_figure)
    more = QUICK.model_copy(update={"labels": ("5", "10"), "seeds": 1})
    with pytest.raises(Stopped):
        evaluate_run(trained, str(shapes_store), None, more)
    kept = Results.load(trained.path / "results.json")
    assert [r.labels for r in kept] == [*(r.labels for r in earlier), "5"]
    assert "pre-trained (splitmask): kNN, 5 labels a class: " in capsys.readouterr().err


@pytest.mark.parametrize("change", ["gone", "other"])
def test_a_run_whose_images_are_gone_is_measured_all_the_same(trained, shapes_store, change):
    if change == "gone":
        shutil.rmtree(trained.config.data)
    else:
        trained.write_json("run.json", {"data": {"fingerprint": "0" * 16}})
    results = evaluate_run(trained, str(shapes_store), None, QUICK)
    assert results.get("pre-trained (splitmask)", "knn", "all").seen is None


def test_baselines_have_the_runs_own_architecture(trained):
    found = subjects(trained)
    ours, theirs = (
        found[name].build(0).net.state_dict() for name in ("pre-trained (splitmask)", "untrained")
    )
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}

"""The page of a run: complete whatever is there, and never stopped by what is not."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from fake_run import write_fake_run

from page_elements import Elements, script_json, short_plotly
from unlabel.errors import InputMissing, OutputExists
from unlabel.evaluation.results import Results
from unlabel.report import shell
from unlabel.report.page import render, write_report


@pytest.fixture(scope="module", autouse=True)
def without_plotly():
    with short_plotly():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_run(tmp_path_factory.mktemp("runs") / "demo", steps=200)


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return render(run)


def test_a_finished_run_is_all_there(html: str) -> None:
    parsed = Elements(html)
    seen = parsed.visible
    for text in (
        "Still improving",
        "Train longer on the same images",
        "splitmask on digits",
        "200 of 200 steps",
        "5 labels a class",
        "Fine-tuning",
        "learns from few images, needs no labels",
        'timm.create_model("local-dir:export", pretrained=True)',
        "unlabel pretrain stores/digits --recipe",
    ):
        assert text in seen
    tables = len(parsed.of("table"))
    assert tables == len(parsed.of("caption"))
    assert len(parsed.of("canvas")) == 0
    canvases = [a for a in parsed.of("div") if a.get("class") == "canvas"]
    assert {a["id"] for a in canvases} == set(script_json(parsed))
    assert all(a["aria-label"].strip() for a in canvases)
    assert len(parsed.of("img")) == 2
    headings = [int(tag[1]) for tag, _ in parsed.found if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(headings))


def test_best_of_each_column_is_bold(run: Path, html: str) -> None:
    rows = json.loads((run / "results.json").read_text())
    columns = {(r["protocol"], r["labels"]) for r in rows}
    bold = re.findall(r"<strong>([\d.]+)</strong>", html)
    best = [
        max(r["accuracy"] for r in rows if (r["protocol"], r["labels"]) == column)
        for column in columns
    ]
    assert sorted(bold) == sorted(f"{100 * value:.1f}" for value in best)


def test_differences_are_told_as_they_were_measured(run: Path, html: str) -> None:
    measured = Results.load(run / "results.json")
    ours = next(iter(measured)).subject
    seen = Elements(html).visible
    differences = [
        measured.difference(ours, "untrained", "knn", size) for size in ("1", "5", "20", "all")
    ]
    assert all(d.clear for d in differences)
    points = ", ".join(f"{100 * d.gain:+.1f}" for d in differences)
    text = f"Against untrained: clearly better with 1, 5, 20 and all labels ({points} points)."
    assert text in seen
    assert "no clear difference with all labels" in seen


def test_score_figures_show_intervals_where_they_were_measured(run: Path, html: str) -> None:
    rows = json.loads((run / "results.json").read_text())
    figures = script_json(Elements(html))
    trace = figures["figure-0"]["data"][0]
    knn = [r for r in rows if r["protocol"] == "knn" and r["subject"] == rows[0]["subject"]]
    y = np.array(trace["y"])
    np.testing.assert_allclose(y, [100 * r["accuracy"] for r in knn], atol=0.01)
    np.testing.assert_allclose(
        y + trace["error_y"]["array"], [100 * r["high"] for r in knn], atol=0.02
    )
    np.testing.assert_allclose(
        y - trace["error_y"]["arrayminus"], [100 * r["low"] for r in knn], atol=0.02
    )


def test_an_empty_folder_still_gives_a_page(tmp_path: Path) -> None:
    seen = Elements(render(tmp_path)).visible
    assert "There is no verdict yet." in seen
    assert "Nothing has been measured on labelled images yet." in seen
    assert "The run logged no figures." in seen
    assert "The run's settings could not be read." in seen
    assert "has not been exported yet" in seen


def test_a_killed_run_says_how_to_go_on(run: Path, tmp_path: Path) -> None:
    for name in ("config.yaml", "run.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    whole = (run / "metrics.jsonl").read_bytes()
    (tmp_path / "metrics.jsonl").write_bytes(whole[: len(whole) // 2])
    seen = Elements(render(tmp_path)).visible
    assert f"unlabel pretrain --resume {tmp_path}" in seen
    assert re.search(r"\b\d+ of 200 steps", seen)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"null\n[1]\n3\n",
        b"[" * 100_000,
        b"\xff\xfe\x00",
        b'{"kind":"train","step":0,"loss":NaN}\n',
        b'{"kind":"train","step":0,"loss":1e400,"lr":-Infinity}\n',
        b'{"kind":"train","step":NaN,"loss":1}\n',
        b'{"kind":"train","step":"0","loss":"1"}\n',
        b'{"kind":{},"step":1,"loss":1}\n',
        b'{"kind":"monitor","step":1,"knn":null,"rankme":true}\n',
        b'{"kind":"train","step":1,"loss":' + b"9" * 400 + b"}\n",
    ],
)
def test_broken_files_never_stop_the_page(content: bytes, tmp_path: Path) -> None:
    for name in ("metrics.jsonl", "run.json", "verdict.json", "results.json", "config.yaml"):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "previews").mkdir()
    (tmp_path / "previews" / "views.png").write_bytes(content)
    assert Elements(render(tmp_path)).of("main")


@pytest.mark.parametrize("name", ["run.json", "verdict.json", "results.json", "config.yaml"])
@pytest.mark.parametrize(
    "value",
    [None, 3, "text", [1, {"accuracy": "x"}], {"data": 1, "steps": "x", "headline": 3, "why": 1}],
)
def test_values_of_another_kind_never_stop_the_page(
    name: str, value: object, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes())
    (tmp_path / name).write_text(json.dumps(value))
    assert Elements(render(tmp_path)).of("main")


def test_nan_is_a_gap_in_the_curve(tmp_path: Path) -> None:
    rows = [
        {"kind": "train", "step": s, "loss": float("nan") if s == 2 else 1.0 / (s + 1)}
        for s in range(4)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"kind": "tr')
    figures = script_json(Elements(render(tmp_path)))
    assert figures["figure-0"]["data"][0]["y"] == [1.0, 0.5, None, 0.25]


def test_written_whole_and_not_over_another_unasked(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    assert path.read_bytes() == render(run).encode()
    with pytest.raises(OutputExists):
        write_report(run, overwrite=False)
    write_report(run)
    assert not list(run.glob(".tmp-*"))
    with pytest.raises(InputMissing):
        write_report(run / "nowhere")


def test_colours_are_readable_in_light_and_dark() -> None:
    light, dark = re.findall(r":root \{(.*?)\}", shell._own("page.css"), re.DOTALL)
    tones = dict(re.findall(r"--([\w-]+): (#\w{6});", light))
    for theme in (tones, tones | dict(re.findall(r"--([\w-]+): (#\w{6});", dark))):
        for ground in (theme["page"], theme["paper"]):
            for name in ("ink", "muted", "accent", "good", "warn", "bad"):
                assert contrast(theme[name], ground) >= 4.5, name
            for name in ("quiet", *(f"c{i}" for i in range(8))):
                assert contrast(theme[name], ground) >= 3, name


def contrast(a: str, b: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2, 1.4.3)."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))

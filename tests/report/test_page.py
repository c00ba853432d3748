"""The page of a run: complete, self-contained, and deaf to whatever its names say."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from fake_run import write_fake_run

from unlabel.errors import InputMissing, OutputExists
from unlabel.evaluation.results import Results
from unlabel.report import page as page_module
from unlabel.report.curves import Curve, read_curves
from unlabel.report.page import render, write_report

XSS = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</textarea><img src=x onerror=alert(1)>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<body onload=alert(1)>",
    "<iframe src=javascript:alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    '<a href="https://evil.example/">x</a>',
    "<base href=//evil.example>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<object data=//evil.example></object>",
    "<embed src=//evil.example>",
    "<form action=//evil.example><input name=x>",
    "<math><mtext></mtext><mglyph><style><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x="',
    "' onfocus='alert(1)' autofocus='",
    "x onclick=alert(1) ",
    "`onclick=alert(1)`",
    "<!--<script>",
    "--><script>alert(1)</script>",
    "]]><script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "%{fullData.name}<extra>x</extra>",
    "<b>bold</b><a href='https://evil.example'>link</a>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\\u003cscript\\u003ealert(1)\\u003c/script\\u003e",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "name\u202egnp.exe",
    "nul\x00inside<script\x00>alert(1)</script>",
    "half\ud800surrogate",
    "line\u2028separator<script>",
    "<ScRiPt/src=//evil.example>",
]
VOID = {"meta", "img", "br", "link", "input", "base"}


class Elements(HTMLParser):
    """Every element with its attributes and own text, and whether tags close as they should."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        """Tags and names of attributes: what a name must never change."""
        return [(tag, tuple(attributes)) for tag, attributes in self.found]

    @property
    def visible(self) -> str:
        return " ".join(
            " ".join(t for tag, t in self.texts if tag not in ("script", "style")).split()
        )


@pytest.fixture(scope="module", autouse=True)
def short_plotly():
    """A stand-in of a few bytes for Plotly's 5 MB, except where it is looked at itself."""
    page_module._assets.cache_clear()
    original = page_module.get_plotlyjs
    page_module.get_plotlyjs = lambda: "var Plotly;"
    yield
    page_module.get_plotlyjs = original
    page_module._assets.cache_clear()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_run(tmp_path_factory.mktemp("runs") / "demo", steps=200)


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return render(run)


def fill(value: object, text: str) -> object:
    """``value`` with every text in it replaced, keys as well, but not the names of the format."""
    keep = {"kind", "state"}
    if isinstance(value, dict):
        return {k: v if k in keep else fill(v, text) for k, v in value.items()}
    if isinstance(value, list):
        return [fill(v, text) for v in value]
    return text if isinstance(value, str) else value


def file_name(text: str) -> str:
    """The nearest name that a file may have."""
    return text.encode("utf-8", "replace").decode().replace("/", "\u2215").replace("\0", "")


def poison(folder: Path, text: str) -> None:
    """Put ``text`` into every field of a run that holds text, and into names of keys and files."""
    for preview in (folder / "previews").iterdir():
        preview.rename(preview.with_name(f"{preview.stem}{file_name(text)}.png"))
    for name in ("run.json", "verdict.json"):
        values = fill(json.loads((folder / name).read_text()), text)
        for part in values.values() if name == "run.json" else ():
            part[text] = text
        (folder / name).write_text(json.dumps(values))
    config = fill(yaml.safe_load((folder / "config.yaml").read_text()), text)
    config["options"][text] = text
    (folder / "config.yaml").write_text(json.dumps(config))
    rows = json.loads((folder / "results.json").read_text())
    subjects = list(dict.fromkeys(row["subject"] for row in rows))
    for row in rows:
        row["subject"] = text + "abcd"[subjects.index(row["subject"])]
        row["details"] = {text: text}
        row["labels"] = text if row["labels"] == "20" else row["labels"]
        row["protocol"] = text if row["protocol"] == "linear" else row["protocol"]
    (folder / "results.json").write_text(json.dumps(rows))
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in metrics:
        row[text] = 1.0
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, metrics)))


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> list:
    folder = write_fake_run(tmp_path_factory.mktemp("harmless") / "run", steps=20, images=20)
    poison(folder, "harmless")
    return Elements(render(folder)).shape


@pytest.mark.parametrize("text", XSS, ids=range(len(XSS)))
def test_no_name_becomes_markup(text: str, harmless: list, tmp_path: Path) -> None:
    folder = write_fake_run(tmp_path / f"run{file_name(text)}", steps=20, images=20)
    poison(folder, text)
    html = render(folder)
    html.encode()
    parsed = Elements(html)
    assert parsed.shape == harmless
    assert not [a for _, attributes in parsed.found for a in attributes if a.startswith("on")]
    assert not {"\x00", "\u202e", "\ud800"} & set(html)
    if text.isprintable():
        assert " ".join(text.split()) in parsed.visible
    figures = script_json(parsed)
    names = {trace["name"] for spec in figures.values() for trace in spec["data"]}
    assert not [name for name in names if "<" in name]


def test_no_text_ends_or_opens_a_script() -> None:
    for text in XSS:
        code = page_module._script_json({text: text})
        assert not set("<>&") & set(code)
        assert json.loads(code) == {text: text}


def script_json(parsed: Elements) -> dict:
    place = [a for t, a in parsed.found if t == "script"].index(
        {"type": "application/json", "id": "figures"}
    )
    return json.loads([text for tag, text in parsed.texts if tag == "script"][place])


def test_policy_allows_only_what_the_page_brings(html: str) -> None:
    parsed = Elements(html)
    policy = next(a["content"] for a in parsed.of("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert not re.search(r"https?:|\*", policy)
    code = [t for tag, t in parsed.texts if tag in ("script", "style") and not t.startswith("{")]
    assert len(code) == 3
    for text in code:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_nothing_is_asked_of_the_network(html: str) -> None:
    parsed = Elements(html)
    addresses = [
        value
        for _, attributes in parsed.found
        for name, value in attributes.items()
        if name in {"src", "href", "action", "srcset", "data", "poster", "formaction"}
    ]
    assert addresses
    assert all(value.startswith("data:image/png;base64,") for value in addresses)
    style = next(text for tag, text in parsed.texts if tag == "style")
    assert "url(" not in style
    assert "@import" not in style


def test_plotly_stands_in_the_page_once_and_whole(run: Path, monkeypatch) -> None:
    from plotly.offline import get_plotlyjs

    code = get_plotlyjs()
    monkeypatch.setattr(page_module, "get_plotlyjs", lambda: code)
    page_module._assets.cache_clear()
    html = render(run)
    page_module._assets.cache_clear()
    assert html.count(code) == 1
    assert not re.search(r"</script|<!--|\r|\0", code, re.IGNORECASE)


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


def test_long_runs_are_thinned_to_means(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal(100_003)
    values[random.random(len(values)) < 0.1] = np.nan
    values[:200] = np.nan
    curve = Curve(np.arange(len(values), dtype=float), values).thinned(2000)
    assert len(curve.steps) == len(curve.values) == 2000
    edges = [int(i * len(values) / 2000) for i in range(2001)]
    expected = [
        np.nanmean(part) if np.isfinite(part := values[a:b]).any() else np.nan
        for a, b in itertools.pairwise(edges)
    ]
    np.testing.assert_allclose(curve.values, expected, rtol=1e-12)
    assert np.isnan(curve.values[0])
    assert np.all(np.diff(curve.steps) > 0)


def test_curves_come_in_order_of_steps(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(
        '{"kind":"train","step":2,"loss":3}\n{"kind":"train","step":0,"loss":1}\n'
    )
    curve = read_curves(tmp_path / "m.jsonl")["train"]["loss"]
    assert curve.steps.tolist() == [0, 2]
    assert curve.values.tolist() == [1, 3]


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
    light, dark = re.findall(r":root \{(.*?)\}", page_module._own("page.css"), re.DOTALL)
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

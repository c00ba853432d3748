"""The page is self-contained, and deaf to whatever names and texts say."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml
from fake_run import write_fake_run

from page_elements import Elements, script_json, short_plotly
from unlabel.report import shell
from unlabel.report.page import render

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
        code = shell.script_json({text: text})
        assert not set("<>&") & set(code)
        assert json.loads(code) == {text: text}


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
    monkeypatch.setattr(shell, "get_plotlyjs", lambda: code)
    shell.assets.cache_clear()
    html = render(run)
    shell.assets.cache_clear()
    assert html.count(code) == 1
    assert not re.search(r"</script|<!--|\r|\0", code, re.IGNORECASE)

"""Write docs/settings.md, every setting there is, from the models that read them: ``make docs``."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from unlabel.config import ModelConfig, OptimConfig, PretrainConfig, Settings
from unlabel.evaluation.settings import EvaluationConfig
from unlabel.methods.base import Method
from unlabel.methods.registry import methods

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Every setting

Made by `make docs` from the settings themselves; edit their docstrings, not this page.

`unlabel pretrain` and `unlabel evaluate` take each setting as `--set NAME=VALUE` (repeat it), where
the value is YAML: `--set optim.betas=[0.9,0.999]`, `--set optim.clip_grad=null`. A recipe holds the
same names: `optim: {lr: 1.0e-3}` or `optim.lr: 1.0e-3`. From Python: `settings={"optim.lr": 1e-3}`.
Method, model, sizes, batch, length and workers are chosen by [rules](rules.md) when they are not
given, and `optim.*` and `model.drop_path` follow the method's recipe. `unlabel pretrain --help` and
`unlabel evaluate --help` list those that have an option of their own (`--steps`, `--labels`).
"""
KINDS: dict[Any, str] = {
    bool: "`true` or `false`",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    Any: "anything",
    type(None): "`null`",
}
BOUNDS = {
    annotated_types.Ge: ("ge", "at least"),
    annotated_types.Gt: ("gt", "above"),
    annotated_types.Le: ("le", "at most"),
    annotated_types.Lt: ("lt", "below"),
    annotated_types.MultipleOf: ("multiple_of", "a multiple of"),
}


def page() -> str:
    """The whole page."""
    parts = [
        HEAD,
        _section("## Pre-training", PretrainConfig, ""),
        _section("## The model", ModelConfig, "model."),
        _section("## The optimiser", OptimConfig, "optim."),
        "## Options of each method\n",
        *(_method_section(method) for method in methods().values()),
        _section("## Evaluation", EvaluationConfig, ""),
    ]
    for name, field in EvaluationConfig.model_fields.items():
        if _is_group(field.annotation):
            parts.append(_section(f"### `{name}.*`", field.annotation, f"{name}."))
    return "\n".join(parts)


def _section(title: str, settings: type[Settings], prefix: str) -> str:
    """A title, what the group is, and its table; groups within it have tables of their own."""
    rows = list(_table(settings, prefix))
    head = ["| setting | default | allowed | meaning |", "|---|---|---|---|"]
    lines = [title, "", _prose(inspect.getdoc(settings)), "", *(head + rows if rows else ["None."])]
    return "\n".join(lines) + "\n"


def _method_section(method: type[Method]) -> str:
    """A method's recipe and options."""
    title = f"### {method.name}"
    text = _section(title, method.Options, "options.")
    return text.replace(f"{title}\n", f"{title}\n\n{_card(method)}Recipe: {_recipe(method)}.\n", 1)


def _card(method: type[Method]) -> str:
    """A link to the method's own page, where it has one."""
    there = (PAGE.parent / "methods" / f"{method.name}.md").is_file()
    return f"[Card](methods/{method.name}.md). " if there else ""


def _recipe(method: type[Method]) -> str:
    """The optimiser settings and drop path that the method brings."""
    brought = {f"optim.{name}": value for name, value in _changed(method.recipe).items()}
    if method.drop_path:
        brought["model.drop_path"] = method.drop_path
    text = _listed(brought) or "the defaults above"
    if method.short_run:
        text += f". For short runs on small images: {_listed(method.short_run)}"
    return text


def _changed(settings: Settings) -> dict[str, Any]:
    """The values that differ from their defaults."""
    fields = type(settings).model_fields
    values = {name: getattr(settings, name) for name in fields}
    return {name: value for name, value in values.items() if value != fields[name].default}


def _listed(values: Mapping[str, Any]) -> str:
    """Settings as they are typed."""
    return ", ".join(f"`{name}={_shown(value)}`" for name, value in values.items())


def _table(settings: type[Settings], prefix: str) -> Iterator[str]:
    """A row a setting: name, default, what is allowed, what it means."""
    for name, field in settings.model_fields.items():
        if _is_group(field.annotation) or name == "options":
            continue
        default = "must be given" if field.is_required() else f"`{_shown(_default_of(field))}`"
        cells = (f"`{prefix}{name}`", default, _allowed(field), _meaning(settings, name))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _is_group(annotation: Any) -> bool:
    """Whether a setting is a group of settings."""
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _default_of(field: FieldInfo) -> Any:
    """A setting's default."""
    return field.get_default(call_default_factory=True)


def _shown(value: Any) -> str:
    """A value as YAML on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(_shown(v) for v in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _allowed(field: FieldInfo) -> str:
    """The kind of value, and its bounds."""
    bounds = [
        f"{words} {getattr(bound, name)}"
        for bound in field.metadata
        for name, words in [BOUNDS.get(type(bound), ("", ""))]
        if name
    ]
    return ", ".join([_kind(field.annotation), *bounds])


def _kind(annotation: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(part) for part in inner)
    if origin is Annotated:
        return _kind(inner[0])
    if origin is tuple:
        return _list(inner)
    if origin is dict:
        return "names and values"
    return KINDS[annotation]


def _list(inner: tuple[Any, ...]) -> str:
    """A list of any length, or of as many members as there are types."""
    if inner[-1] is ...:
        return f"list of: {_kind(inner[0])}"
    return f"[{', '.join(_kind(part) for part in inner)}]"


def _meaning(settings: type[Settings], name: str) -> str:
    """A setting's description; one that only changes a default has that of the class it is of."""
    owners = [c for c in settings.__mro__ if name in getattr(c, "model_fields", {})]
    found = (owner.model_fields[name].description for owner in owners)
    return _prose(next((text for text in found if text), ""))


def _prose(docstring: str | None) -> str:
    """A docstring in Markdown; what stands in a table is one line."""
    return " ".join((docstring or "").split()).replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""Checkpoints: folders ``step-00000123`` that are complete and verified, or invisible.

Each holds ``model.safetensors``, ``optimizer.safetensors``, ``state.json`` (the step, the
optimiser's hyper-parameters and whatever the loop adds) and ``manifest.json`` (size and SHA-256 of
the other three). Nothing is pickled, so reading a checkpoint runs no code.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from unlabel.atomic import Content, discard, mismatch, write_folder
from unlabel.backbones.weights import differences
from unlabel.errors import ConfigError, DataError
from unlabel.training.tensorfile import tensor_file

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def parameter_names(model: nn.Module) -> dict[Tensor, str]:
    """Name of each parameter of ``model``; one that is shared has its first name."""
    return {parameter: name for name, parameter in model.named_parameters()}


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` stands, or would stand."""
    return folder / f"step-{step:08d}"


def step_of(path: Path) -> int:
    """Updates that the checkpoint at ``path`` holds."""
    return int(path.name.removeprefix("step-"))


def save(
    folder: Path,
    step: int,
    model: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    names: Mapping[Tensor, str],
    state: Mapping[str, Any],
) -> Path:
    """Write the checkpoint of ``step`` into ``folder``.

    Args:
        folder: where the run's checkpoints stand; made if need be.
        step: updates of the weights done.
        model: a ``state_dict``, gathered if it was sharded. Tied tensors are written under each of
            their names, so that the file is complete for any reader.
        optimizer: its per-parameter state and hyper-parameters are saved.
        names: the name of every parameter that ``optimizer`` holds (``parameter_names``).
        state: anything JSON can hold; ``load`` gives it back.

    Returns:
        The checkpoint's folder. A verified one of the same step is left as it is.

    Raises:
        StorageError: the disk is full, read-only or failing; earlier checkpoints are untouched.
    """
    path = path_of(folder, step)
    if path.exists():
        if mismatch(path) is None:
            return path
        discard(path)
    tensors, description = _optimizer_state(optimizer, names)
    text = json.dumps(
        {
            "step": step,
            "versions": {"torch": torch.__version__},
            "state": dict(state),
            "optimizer": description,
        },
        indent=2,
    )
    files = {
        MODEL: tensor_file(model),
        OPTIMIZER: tensor_file(tensors),
        STATE: Content.of(text.encode()),
    }
    write_folder(path, files)
    return path


def latest(folder: Path) -> Path | None:
    """The newest checkpoint that is as it was written; ``None`` when none was ever completed.

    A damaged one is passed over with a warning that names the file.

    Raises:
        DataError: there are checkpoints, and every one of them is damaged.
    """
    problems = []
    for path in reversed(_checkpoints(folder)):
        problem = mismatch(path)
        if problem is None:
            return path
        problems.append(f"{path.name}: {problem}")
        warnings.warn(
            f"Checkpoint {path} is damaged ({problem}) and is passed over for an older one.",
            RuntimeWarning,
            stacklevel=2,
        )
    if problems:
        raise DataError(
            f"No checkpoint in {folder} is as it was written:\n  " + "\n  ".join(problems) + "\n"
            "Restore the folder from a copy, or start the run anew in another folder."
        )
    return None


def load(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    names: Mapping[Tensor, str] | None = None,
) -> dict[str, Any]:
    """Restore ``model`` and, if given, ``optimizer``, bit for bit.

    Args:
        path: a checkpoint's folder.
        model: takes exactly the tensors that were saved.
        optimizer: over the same parameters, in the same groups.
        names: as given to ``save``; the model's own names when left out.

    Returns:
        The ``state`` given to ``save``, and ``"step"``.

    Raises:
        DataError: the checkpoint is damaged or is none.
        ConfigError: it belongs to another model or optimiser; the differences are listed.
    """
    _refuse_damaged(path)
    with _reading(path):
        saved = json.loads((path / STATE).read_text(encoding="utf-8"))
        _fill(model, load_file(path / MODEL), path)
        if optimizer is not None:
            names = parameter_names(model) if names is None else names
            tensors = load_file(path / OPTIMIZER)
            _restore_optimizer(path, optimizer, names, tensors, saved["optimizer"])
        return {**saved["state"], "step": saved["step"]}


def read_state(path: Path) -> dict[str, Any]:
    """The ``state`` given to ``save``, and ``"step"``; no tensor is read or verified.

    Raises:
        DataError: it cannot be read.
    """
    with _reading(path):
        saved = json.loads((path / STATE).read_text(encoding="utf-8"))
        return {**saved["state"], "step": saved["step"]}


def load_part(path: Path, part: nn.Module, name: str) -> None:
    """Restore the sub-module of the saved model that had this ``name`` there, and nothing else.

    Raises:
        DataError: the checkpoint is damaged or is none.
        ConfigError: ``part`` has other tensors; the differences are listed.
    """
    _refuse_damaged(path)
    prefix = f"{name}."
    with _reading(path), safe_open(path / MODEL, framework="pt") as file:
        found = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118
        weights = {key.removeprefix(prefix): file.get_tensor(key) for key in found}
        _fill(part, weights, path)


def _refuse_damaged(path: Path) -> None:
    if problem := mismatch(path):
        raise DataError(f"Checkpoint {path} cannot be used: {problem}. Resume from another one.")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong in reading a checkpoint into a DataError that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DataError(f"Checkpoint {path} cannot be read: {error!r}.") from error


def _fill(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load ``weights``, every one of them and of the same type, or say what does not fit."""
    if lines := differences(weights, model.state_dict(), same_type=True):
        raise ConfigError(
            f"The model saved in {path} is not this run's:\n"
            + "\n".join(lines)
            + "\nResume with the settings that the run began with."
        )
    model.load_state_dict(weights)


def prune(folder: Path, keep: Collection[Path]) -> None:
    """Remove the checkpoints that are not in ``keep``, the oldest first.

    Should none of ``keep`` be whole, the newest one that is whole stays too.
    """
    paths = _checkpoints(folder)
    kept = {path.name for path in keep}
    spare = [path for path in paths if path.name not in kept]
    if spare and not _any_whole([path for path in paths if path.name in kept]):
        saviour = next((path for path in reversed(spare) if mismatch(path) is None), None)
        spare = [path for path in spare if path != saviour]
    for path in spare:
        discard(path)


def _any_whole(paths: list[Path]) -> bool:
    return any(mismatch(path) is None for path in reversed(paths))


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of ``folder``, by step."""
    found = [path for path in folder.glob("step-*") if path.name[5:].isdigit() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def _optimizer_state(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by ``key/parameter``, and what JSON can hold: groups and scalar states."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    groups = []
    for group in optimizer.param_groups:
        values = {
            key: value.item() if isinstance(value, Tensor) else value
            for key, value in group.items()
            if key != "params"
        }
        groups.append(values | {"params": [names[parameter] for parameter in group["params"]]})
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                place: dict[str, Any] = tensors if isinstance(value, Tensor) else scalars
                place[f"{key}/{names[parameter]}"] = value
    return tensors, {"groups": groups, "scalars": scalars}


def _restore_optimizer(
    path: Path,
    optimizer: torch.optim.Optimizer,
    names: Mapping[Tensor, str],
    tensors: Mapping[str, Tensor],
    saved: Mapping[str, Any],
) -> None:
    """Set the state itself: ``load_state_dict`` would cast it to the parameters' types."""
    ours = [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
    if ours != (theirs := [group["params"] for group in saved["groups"]]):
        odd = sorted({n for group in ours for n in group} ^ {n for group in theirs for n in group})
        raise ConfigError(
            f"The optimiser saved in {path} is not this run's: its {len(theirs)} groups have "
            f"{[len(group) for group in theirs]} parameters, this run's {len(ours)} have "
            f"{[len(group) for group in ours]}. Only in one of them: {', '.join(odd[:5]) or 'none'}"
            f"{', ...' if len(odd) > 5 else ''}. Resume with the settings that the run began with."
        )
    optimizer.state.clear()
    by_name = {names[p]: (p, group) for group in optimizer.param_groups for p in group["params"]}
    for label, value in {**tensors, **saved["scalars"]}.items():
        key, name = label.split("/", 1)
        parameter, group = by_name[name]
        if isinstance(value, Tensor):
            value = _placed(key, value, parameter, group)
        optimizer.state[parameter][key] = value
    for group, values in zip(optimizer.param_groups, saved["groups"], strict=True):
        for key in values.keys() - {"params"}:
            group[key] = _like(group.get(key), values[key])


def _like(current: Any, value: Any) -> Any:
    """``value`` of the kind that JSON took from it."""
    if isinstance(current, Tensor):
        return torch.full_like(current, value)
    return tuple(value) if isinstance(current, tuple) else value


def _placed(key: str, value: Tensor, parameter: Tensor, group: Mapping[str, Any]) -> Tensor:
    """A state where torch keeps it: beside its parameter and, if of its shape, laid out like it.

    Fused kernels walk parameter and state in step, and sums round by the order in memory. A step
    count that no kernel reads stays on the CPU.
    """
    if key == "step" and not (group.get("fused") or group.get("capturable")):
        return value
    if value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    return value.to(parameter.device)

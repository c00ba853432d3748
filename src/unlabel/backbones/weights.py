"""Weights from files that other people wrote: read without running code, loaded without guessing.

A file is data to be judged. Whatever is refused is refused with a reason, before it can run
anything or take more memory than the file has bytes.
"""

from __future__ import annotations

import argparse
import inspect
import pickletools
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from unlabel.errors import ConfigError, DataError, InputMissing

_PICKLED = {".pth", ".pt", ".bin", ".ckpt", ".tar"}
_WRAPPERS = ("model", "state_dict", "teacher", "student", "target")
_BRANCHES = ("backbone.", "teacher.", "target.", "student.")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "encoder.")
_HEADS = ("head.", "head_dist.", "fc.", "classifier.", "decoder.", "projector.", "predictor.")
_REBUILT = ("relative_position_index", "relative_coords_table", "attn_mask", "num_batches_tracked")
_NEEDED = {
    "collections OrderedDict",
    "collections Counter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
    "torch device",
    "argparse Namespace",  # published checkpoints often carry their command line
}
_LARGEST_PICKLE = 100_000_000  # bytes; the tensors' own bytes stand outside it


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Read a state dict from ``.safetensors``, or from ``.pth``, ``.pt``, ``.bin`` or ``.ckpt``.

    The weights are looked for in the usual wrappers (``"model"``, ``"state_dict"``, ``"teacher"``,
    ...), and prefixes that all of them share (``module.``, ``backbone.``, ``net.``, ...) are taken
    off. Nothing in the file is executed.

    Returns:
        Name to tensor, on the CPU; memory-mapped where the format allows.

    Raises:
        InputMissing: there is no such file.
        DataError: the file is no weights file, is damaged, or asks for what weights never need.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(
            f"{path} is a folder"
            + (
                " of torch.distributed.checkpoint, whose index is a pickle that runs code. "
                "Gather it into a safetensors file first"
                if (path / ".metadata").exists()
                else ""
            )
            + ". Name the weights file itself."
        )
    if not path.is_file():
        raise InputMissing(f"There is no weights file at {path}. Check the path.")
    if path.suffix == ".safetensors":
        content = _read_safetensors(path)
    elif path.suffix in _PICKLED:
        content = _read_pickled(path)
    else:
        raise DataError(
            f"{path} is not known as a weights file. Known endings: .safetensors, "
            + ", ".join(sorted(_PICKLED))
        )
    return _without_prefixes(_state_dict(content, path))


def load_into(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    source: str,
    allow_missing: Collection[str] = (),
) -> None:
    """Load ``weights`` into a timm ``model``: all of them, each in its place, or not at all.

    timm's own conversion for the architecture comes first: it knows the published layouts, and
    resamples position embeddings and the patch embedding where grid or patch size differ. Heads
    that the model has not, and buffers that it rebuilds by itself, are left out.

    Args:
        model: a timm network.
        weights: as ``read_weights`` gives them; any floating type.
        source: where they are from, for messages.
        allow_missing: beginnings of names that keep their present values if ``weights`` lack them.

    Raises:
        ConfigError: anything is missing, unexpected or of another shape; up to five of each are
            listed. The model is as it was.
    """
    ours = model.state_dict()
    fitted = {
        name: tensor
        for name, tensor in _converted(model, weights, source).items()
        if name in ours or not (name.startswith(_HEADS) or name.endswith(_REBUILT))
    }
    optional = tuple(allow_missing)
    wanted = {
        name: tensor
        for name, tensor in ours.items()
        if name in fitted or not (name.startswith(optional) or name.endswith(_REBUILT))
    }
    if lines := differences(fitted, wanted):
        raise ConfigError(
            f"The weights in {source} do not fit the model:\n"
            + "\n".join(lines)
            + "\nChoose the model that they were trained with: --model, --patch-size, "
            "--set model.in_chans=N."
        )
    model.load_state_dict(fitted, strict=False)


def differences(
    theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], same_type: bool = False
) -> list[str]:
    """Lines that name up to five tensors of each kind that do not fit; none when all do.

    With ``same_type`` the types must be equal; else any floating type fits any other.
    """

    def described(tensor: Tensor) -> str:
        dtype = "float" if tensor.is_floating_point() and not same_type else tensor.dtype
        return f"{tuple(tensor.shape)} {str(dtype).removeprefix('torch.')}"

    both = theirs.keys() & ours.keys()
    unlike = [
        f"{name} ({described(theirs[name])}, needed {described(ours[name])})"
        for name in sorted(both)
        if described(theirs[name]) != described(ours[name])
    ]
    kinds = {
        "missing": sorted(ours.keys() - both),
        "unexpected": sorted(theirs.keys() - both),
        "of another shape or type": unlike,
    }
    return [
        f"  {len(names)} {kind}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for kind, names in kinds.items()
        if names
    ]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:
        raise DataError(f"{path} is not a sound safetensors file: {error}.") from error


def _read_pickled(path: Path) -> Any:
    """Unpickle with torch's restricted reader, after a look at what the pickle asks for."""
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    try:
        if zipped:
            _check_zip(path)
        else:
            with path.open("rb") as file:  # torch's first format: three headers, then the content
                _check_pickles(file, 4)
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a hostile file can raise anything
        cause = error.__context__ or error  # torch's own message advises to read it unsafely
        reason = (str(cause).strip() or repr(cause)).splitlines()[0].split(". ")[0]
        raise DataError(
            f"{path} is refused: {reason[:200]}. Only tensors and plain values are read. Where you "
            "trust the file, save its state_dict as .safetensors and use that."
        ) from None


def _check_zip(path: Path) -> None:
    """Raise ``ValueError`` for archives that would unpack to more than the file holds."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError(
                "its members are compressed, which torch never does and which can hide a thousand "
                "times the file's size"
            )
        claimed = sum(member.file_size for member in members)
        pickles = [member for member in members if member.filename.endswith(".pkl")]
        largest = max((member.file_size for member in pickles), default=0)
        if claimed > path.stat().st_size or largest > _LARGEST_PICKLE:
            raise ValueError(f"its members claim absurd sizes ({claimed} bytes)")
        for member in pickles:
            with archive.open(member) as stream:
                _check_pickles(stream, 1)


def _check_pickles(stream: IO[bytes], count: int) -> None:
    """Raise ``ValueError`` if one of ``count`` pickles in a row asks for more than weights need."""
    for _ in range(count):
        for code, name, _ in pickletools.genops(stream):
            if code.name in ("GLOBAL", "STACK_GLOBAL", "INST") and not _is_needed(str(name)):
                raise ValueError(f"it asks for {name or 'something'}, which weights never need")


def _is_needed(name: str) -> bool:
    """Whether a state dict needs this (``"module name"``): a builder, a storage or a type."""
    module, _, last = name.partition(" ")
    if module in ("torch", "torch.storage") and last.endswith("Storage"):
        return True
    return name in _NEEDED or (
        module == "torch" and isinstance(getattr(torch, last, 0), torch.dtype)
    )


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of ``content``, out of up to three wrappers."""
    for _ in range(3):
        wrapped = [
            content[key] for key in _WRAPPERS if isinstance(content, dict) and key in content
        ]
        content = next((inner for inner in wrapped if isinstance(inner, dict)), content)
    items = content.items() if isinstance(content, dict) else ()
    tensors = {name: t for name, t in items if isinstance(name, str) and isinstance(t, Tensor)}
    if not tensors:
        raise DataError(f"{path} holds no weights: no table of names and tensors was found in it.")
    _check_sizes(tensors, path)
    return tensors


def _check_sizes(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that claim more than the file holds, such as one value repeated."""
    for name, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise DataError(f"{path} is refused: {name} claims more values than are stored.")


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off what wraps the backbone's names, one prefix at a time, until nothing does."""
    while True:
        branch = next((b for b in _BRANCHES if any(name.startswith(b) for name in tensors)), None)
        body = [name for name in tensors if not name.startswith(_HEADS)]
        shared = next((p for p in _PREFIXES if body and all(n.startswith(p) for n in body)), None)
        prefix = branch or shared
        if prefix is None:
            return tensors
        tensors = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }


def _converted(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Weights in the layout, grid and patch size of ``model``, as timm itself converts them."""
    convert = getattr(inspect.getmodule(type(model)), "checkpoint_filter_fn", None)
    if convert is None:
        return dict(weights)
    try:
        return dict(convert(dict(weights), model))
    except Exception as error:  # shapes that the conversion does not expect
        raise ConfigError(
            f"The weights in {source} are not those of a {type(model).__name__}: {error!r}. "
            "Choose the model that they were trained with (--model)."
        ) from error

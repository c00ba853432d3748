"""From a name and sizes to a backbone: timm's networks, and a few sizes of our own."""

from __future__ import annotations

import json
from collections.abc import Callable
from difflib import get_close_matches
from math import log
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import model_entrypoint
from torch import nn

from unlabel.backbones.base import Backbone
from unlabel.backbones.resnet import ResNet
from unlabel.backbones.swin import SwinV2
from unlabel.backbones.vit import ViT
from unlabel.backbones.weights import load_into, read_weights
from unlabel.config import ModelConfig
from unlabel.errors import ConfigError, InputMissing

Arguments = dict[str, Any]
Channels = tuple[float, ...]

LOCAL = "local-dir:"
"""Prefix of a folder that timm (and ``unlabel export``) writes: config.json, model.safetensors."""

FAMILIES: dict[str, type[Backbone]] = {
    "timm.models.vision_transformer": ViT,
    "timm.models.deit": ViT,
    "timm.models.swin_transformer_v2": SwinV2,
    "timm.models.resnet": ResNet,
    "timm.models.resnetv2": ResNet,
}


def _small_vit(dim: int, depth: int, heads: int) -> tuple[str, Arguments]:
    size = {"img_size": 32, "patch_size": 4}
    return "vit_tiny_patch16_224", {"embed_dim": dim, "depth": depth, "num_heads": heads, **size}


def _small_resnet(layers: list[int], channels: list[int]) -> tuple[str, Arguments]:
    return "resnet18", {"layers": layers, "channels": channels}


def _small_swin(channels: int) -> tuple[str, Arguments]:
    """Two stages on patches of 4 pixels, so that 32 pixels end in a grid of 4 by 4."""
    return "swinv2_tiny_window8_256", {
        "embed_dim": channels,
        "depths": [2, 4],
        "num_heads": [channels // 16, channels // 8],
        "window_size": 4,
        "img_size": 32,
    }


def _study_swin(channels: int) -> tuple[str, Arguments]:
    """Head dimension 32, window 12 at 192 pixels (6 in the last stage, whose grid is 6 by 6)."""
    return "swinv2_small_window8_256", {
        "embed_dim": channels,
        "depths": [2, 2, 18, 2],
        "num_heads": [channels // 32 * 2**stage for stage in range(4)],
        "window_size": 12,
        "img_size": 192,
    }


NAMED: dict[str, tuple[str, Arguments]] = {
    # For images of about 32 pixels: 0.8, 2.7 and 9.9 million parameters.
    "vit_nano": _small_vit(128, 4, 4),
    "vit_micro": _small_vit(192, 6, 3),
    "vit_mini": _small_vit(320, 8, 5),
    # Convolutions to learn with in minutes on a processor: 1.2 million parameters.
    "resnet_nano": _small_resnet([1, 1, 1, 1], [32, 64, 128, 256]),
    # SwinV2 for images of about 32 pixels: 0.3, 0.9 and 2.0 million parameters.
    "swinv2_nano": _small_swin(32),
    "swinv2_micro": _small_swin(64),
    "swinv2_mini": _small_swin(96),
    # The sizes of "On Data Scaling in Masked Image Modeling".
    "swinv2_s": _study_swin(96),
    "swinv2_b": _study_swin(128),
    "swinv2_l": _study_swin(192),
    "swinv2_h": _study_swin(352),
    "swinv2_g": _study_swin(448),
}
"""Sizes of our own: the timm architecture that each is a variant of, and its arguments."""

RESNET_LAYERS = {
    "resnet50": [3, 4, 6, 3],
    "resnet101": [3, 4, 23, 3],
    "resnet152": [3, 8, 36, 3],
    "resnet200": [3, 24, 36, 3],
}
"""Blocks of each group (RELICv2, section 1.5)."""


def build_backbone(config: ModelConfig) -> Backbone:
    """Build the network that ``config`` describes, without a classifier.

    ``config.name`` is a timm name, one of ``NAMED``, or ``local-dir:FOLDER``, which brings its own
    weights, image size and channels. ``config.weights`` is ``None``, ``"timm"``, a weights file, or
    ``local-dir:FOLDER``.

    Raises:
        ConfigError: unknown name, or sizes that the network cannot have; the message says which it
            can.
        InputMissing: weights that are not there, or timm's without a network.
    """
    architecture, arguments = _resolve(config)
    family = _family(architecture)
    source = config.weights or (config.name if config.name.startswith(LOCAL) else None)
    weights = None if source in (None, "timm") else _read(str(source))
    arguments |= config.arguments
    if "in_chans" in config.model_fields_set:  # else as the name has it
        arguments["in_chans"] = config.in_chans
    size = config.image_size or _own_size(architecture, arguments)
    arguments = _fit_sizes(config, family, architecture, arguments, size, source is not None)
    # Folders and timm's own weights come with the pooling that suits them.
    if family is ViT and source not in (config.name, "timm"):
        after = weights is not None and "fc_norm.weight" in weights
        arguments = {"global_pool": "avg", "fc_norm": after, **arguments}
    net = _create(config, architecture, arguments, pretrained=source == "timm")
    if weights is not None:
        load_into(net, weights, str(source))
    backbone = ResNet(net, size, _enlarge(config, size)) if family is ResNet else family(net)
    backbone.architecture = architecture.partition(".")[0]
    backbone.model_args = {"num_classes": 0, **arguments}
    backbone.pretrained = source is not None
    backbone.mean, backbone.std = _statistics(source, net)
    return backbone


def describe_backbone(backbone: Backbone) -> Arguments:
    """What `rebuild_backbone` makes the same network of, fit for JSON."""
    names = ("architecture", "model_args", "image_size", "enlarge")
    return {name: getattr(backbone, name) for name in names}


def rebuild_backbone(description: Arguments) -> Backbone:
    """The network that `describe_backbone` described, with random weights.

    Nothing is read: what it once started from need not be there. It has no stochastic depth.
    """
    architecture, arguments = description["architecture"], description["model_args"]
    family = _family(architecture)
    net: Any = timm.create_model(architecture, **arguments)
    if family is ResNet:
        backbone: Backbone = ResNet(net, description["image_size"], description["enlarge"])
    else:
        backbone = family(net)
    backbone.architecture, backbone.model_args = architecture, arguments
    return backbone


def family_of(config: ModelConfig) -> type[Backbone]:
    """How the network that ``config`` names would be read; nothing is built.

    Raises:
        ConfigError: unknown name, or a family that is not read.
    """
    return _family(_resolve(config)[0])


def _resolve(config: ModelConfig) -> tuple[str, Arguments]:
    """The timm architecture behind a name, and the arguments that the name stands for."""
    name = config.name
    if config.width > 1:
        return _wide_resnet(name, config.width)
    if name.startswith(LOCAL):
        return _read_config(Path(name.removeprefix(LOCAL)))
    if name in NAMED:
        architecture, arguments = NAMED[name]
        return architecture, dict(arguments)
    if "/" in name or not timm.is_model(name):
        raise ConfigError(
            f"model.name: there is no {name!r}. Near it: {', '.join(_near(name))}. For a folder "
            f"that was exported, write {LOCAL}FOLDER; timm.list_models() lists the rest."
        )
    return name, {}


def _near(name: str) -> list[str]:
    """Names that can be used: those that contain ``name``, else those spelt much like it."""
    modules = [module.rpartition(".")[2] for module in FAMILIES]
    known = [*NAMED, *(model for m in modules for model in timm.list_models(module=m))]
    typed = name.lower()
    within = [other for other in known if typed in other]
    within.sort(key=lambda other: (not other.startswith(typed), len(other)))
    return within[:8] or get_close_matches(typed, known, n=8) or list(NAMED)


def _wide_resnet(name: str, width: int) -> tuple[str, Arguments]:
    """timm's ``ResNet`` cannot widen its stem; its ``ResNetV2`` without pre-activation can."""
    if name not in RESNET_LAYERS:
        raise ConfigError(
            f"model.width {width} is for {', '.join(RESNET_LAYERS)}; {name} comes as it is"
        )
    return "resnetv2_50", {
        "layers": RESNET_LAYERS[name],
        "width_factor": width,
        "preact": False,
        "zero_init_last": True,
    }


def _read_config(folder: Path) -> tuple[str, Arguments]:
    content = _read_json(folder)
    try:
        architecture, arguments = content["architecture"], dict(content.get("model_args") or {})
        trained = content.get("pretrained_cfg", {}).get("input_size", [None])[-1]
        size = content.get("unlabel", {}).get("image_size", trained)
    except (LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{folder}/config.json describes no timm model: {error!r}") from error
    if not timm.is_model(architecture):
        raise ConfigError(f"{folder} is of {architecture!r}, which this timm does not have")
    arguments.pop("num_classes", None)
    return architecture, {"img_size": size, **arguments} if size else arguments


def _enlarge(config: ModelConfig, size: int) -> int | None:
    """How often a ResNet's pixels are repeated, if that is asked for or an export says so."""
    if config.enlarge or not config.name.startswith(LOCAL):
        return config.enlarge
    known = _read_json(Path(config.name.removeprefix(LOCAL)))
    same = known.get("unlabel", {}).get("image_size") == size
    return known["pretrained_cfg"]["input_size"][-1] // size if same else None


def _read_json(folder: Path) -> Any:
    path = folder / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputMissing(f"There is no exported model in {folder}: {path} is missing") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error


def _statistics(source: str | None, net: Any) -> tuple[Channels | None, Channels | None]:
    """Mean and standard deviation of the pixels that the weights were trained with, if known."""
    if source == "timm":
        known = net.pretrained_cfg
    elif source is not None and source.startswith(LOCAL):
        known = _read_json(Path(source.removeprefix(LOCAL))).get("pretrained_cfg", {})
    else:
        return None, None
    values = [tuple(known.get(name) or ()) for name in ("mean", "std")]
    mean, std = (value if len(value) == net.in_chans else None for value in values)
    return mean, std


def _read(source: str) -> dict[str, torch.Tensor]:
    if source.startswith(LOCAL):
        return read_weights(Path(source.removeprefix(LOCAL)) / "model.safetensors")
    return read_weights(Path(source))


def _family(architecture: str) -> type[Backbone]:
    module = model_entrypoint(architecture).__module__
    if module not in FAMILIES:
        raise ConfigError(
            f"model.name: {architecture} is of {module}, which is not among the families that "
            "unlabel reads: ViT (vit_*, deit*), SwinV2 (swinv2_*) and ResNet (resnet*)"
        )
    return FAMILIES[module]


def _own_size(architecture: str, arguments: Arguments) -> int:
    """Side of the images that the network is made for, in pixels."""
    size = arguments.get("img_size")
    if size is None:
        pretrained = timm.get_pretrained_cfg(architecture)
        size = pretrained.input_size[-1] if pretrained else 224
    return size if isinstance(size, int) else size[-1]


def _fit_sizes(
    config: ModelConfig,
    family: type[Backbone],
    architecture: str,
    arguments: Arguments,
    size: int,
    trained: bool,
) -> Arguments:
    """``arguments`` with image, patch and window sizes that go together."""
    if family is ResNet:
        if config.patch_size is not None:
            raise ConfigError(f"model.patch_size: {config.name} has no patches; leave it out")
        return {name: value for name, value in arguments.items() if name != "img_size"}
    with torch.device("meta"):
        plain = _create(config, architecture, arguments)
    sizes = _sizes(config, plain, size)
    if family is SwinV2:
        sizes |= _windows(plain, size // sizes["patch_size"], trained)
    return arguments | sizes | config.arguments


def _sizes(config: ModelConfig, plain: Any, size: int) -> Arguments:
    """Image and patch size, if they fit the network, of which ``plain`` is a draft."""
    own_patch = plain.patch_embed.patch_size[0]
    patch = config.patch_size or own_patch
    unit = patch * plain.feature_info[-1]["reduction"] // own_patch
    if size % unit:
        below = size // unit * unit
        near = f"{below} or {below + unit}" if below else str(unit)
        raise ConfigError(
            f"model.image_size {size} is not a multiple of {unit}, which patches of {patch} pixels "
            f"need in {config.name}. Possible: {near}, or another model.patch_size"
        )
    return {"img_size": size, "patch_size": patch}


def _windows(plain: Any, grid: int, trained: bool) -> Arguments:
    """The window nearest to the network's own that tiles the grid of every stage.

    timm shrinks the window where the grid is smaller. Trained weights keep the relative positions
    of the windows that they were trained with.
    """
    blocks = [stage.blocks[0] for stage in plain.layers]
    own = max(block.window_size[0] for block in blocks)
    grids = [grid >> stage for stage in range(len(blocks))]
    fitting = [w for w in range(1, grid + 1) if all(g <= w or g % w == 0 for g in grids)]
    window = {"window_size": min(fitting, key=lambda w: abs(log(w / own)))}
    if not trained:
        return window
    sizes = [b.attn.pretrained_window_size[0] or b.window_size[0] for b in blocks]
    return {**window, "pretrained_window_sizes": sizes}


def _create(
    config: ModelConfig, architecture: str, arguments: Arguments, pretrained: bool = False
) -> Any:
    create: Callable[..., nn.Module] = timm.create_model
    try:
        return create(
            architecture,
            pretrained=pretrained,
            num_classes=0,
            drop_path_rate=config.drop_path,
            **arguments,
        )
    except (TypeError, AssertionError) as error:
        raise ConfigError(f"{config.name} cannot be built with {arguments}: {error}") from error
    except Exception as error:  # hubs raise errors of several libraries
        if not pretrained:
            raise
        raise InputMissing(
            f"timm's weights for {config.name} could not be had: {str(error).rstrip('.')}. They "
            "come over the network; a local file can be named in their place."
        ) from error

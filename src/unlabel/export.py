"""A backbone as a folder that timm loads without us."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unlabel.atomic import MANIFEST, Content, discard, write_folder
from unlabel.backbones.base import Backbone
from unlabel.backbones.resnet import ResNet
from unlabel.errors import ConfigError, OutputExists
from unlabel.training.tensorfile import tensor_file

CROP, LARGE = 0.875, 96
"""Share of the short side that is kept, and from which size in pixels: as evaluation crops."""
CONFIG, WEIGHTS, README = "config.json", "model.safetensors", "README.md"


def export_backbone(
    backbone: Backbone,
    folder: Path,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    notes: Mapping[str, Any],
    overwrite: bool = False,
) -> Path:
    """Write ``backbone`` as a folder that timm loads, under the name ``local-dir:FOLDER``.

    ``timm.create_model("local-dir:FOLDER", pretrained=True)`` gives the vector of
    ``backbone.embed``, bit for bit.

    Args:
        backbone: any of ours; it stays as it is.
        folder: must not exist yet.
        mean: of each channel, with pixels in [0, 1]: what the backbone was trained with.
        std: likewise.
        notes: where the weights come from, fit for JSON; kept in config.json and README.md.
        overwrite: replace an earlier export in ``folder``; nothing else is ever replaced.

    Returns:
        ``folder``, which holds config.json, model.safetensors, README.md and manifest.json.

    Raises:
        OutputExists: ``folder`` is there, and is no export or not to be replaced.
        ConfigError: ``mean`` or ``std`` do not fit the channels.
        StorageError: the disk is full, read-only or failing; an earlier export is as it was.
    """
    if len(mean) != backbone.in_chans or len(std) != backbone.in_chans:
        raise ConfigError(
            f"{backbone.in_chans} channels need as many values of mean and std "
            f"(came: {len(mean)} and {len(std)})"
        )
    _check_free(folder, overwrite)
    config = describe(backbone, mean, std, notes)
    files = {
        CONFIG: Content.of((json.dumps(config, indent=2) + "\n").encode()),
        WEIGHTS: tensor_file(backbone.net.state_dict()),
        README: Content.of(_readme(backbone, folder, notes).encode()),
    }
    if not folder.exists():
        write_folder(folder, files)
        return folder
    fresh = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    write_folder(fresh, files)
    discard(folder)
    os.rename(fresh, folder)
    return folder


def describe(
    backbone: Backbone, mean: Sequence[float], std: Sequence[float], notes: Mapping[str, Any]
) -> dict[str, Any]:
    """The config.json that timm's ``local-dir:`` and ``hf-hub:`` read.

    The crop is the one that our evaluation measures with.
    """
    side = backbone.image_size * backbone.enlarge
    known: Any = backbone.net.pretrained_cfg
    return {
        "architecture": backbone.architecture,
        "num_classes": 0,
        "num_features": backbone.dim,
        "model_args": backbone.model_args,
        "pretrained_cfg": {
            "tag": "unlabel",
            "custom_load": False,
            "input_size": [backbone.in_chans, side, side],
            "fixed_input_size": not isinstance(backbone, ResNet),
            # A box repeats small images as the backbone does, and averages large ones.
            "interpolation": "box" if backbone.enlarge > 1 else "bicubic",
            "crop_pct": CROP if backbone.image_size >= LARGE else 1.0,
            "crop_mode": "center",
            "mean": list(mean),
            "std": list(std),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": known["first_conv"],
            "classifier": known["classifier"],
        },
        "unlabel": {"image_size": backbone.image_size, **notes},
    }


def _check_free(folder: Path, overwrite: bool) -> None:
    """Refuse to touch anything but an earlier export that may be replaced."""
    if not folder.exists():
        return
    if not overwrite:
        raise OutputExists(f"{folder} is there already. Choose another folder, or --overwrite it.")
    ours = {CONFIG, WEIGHTS, README, MANIFEST}
    if not folder.is_dir() or {path.name for path in folder.iterdir()} - ours:
        raise OutputExists(f"{folder} holds what no export wrote, so it is not replaced.")


def _readme(backbone: Backbone, folder: Path, notes: Mapping[str, Any]) -> str:
    size = backbone.image_size
    parameters = sum(p.numel() for p in backbone.parameters())
    enlarged = (
        f"\nImages of {size} pixels are repeated {backbone.enlarge} times in height and width "
        "before the network; timm's transform does that. Larger ones it brings to "
        f"{backbone.enlarge * size} pixels, which is close, not the same: for the same features, "
        f"resize them to {size} pixels first.\n"
        if backbone.enlarge > 1
        else ""
    )
    lines = "\n".join(f"- {name}: {value}" for name, value in notes.items())
    return f"""# {backbone.architecture}, pre-trained with unlabel

{backbone.dim} features an image, {parameters / 1e6:.1f} M parameters, from images of {size} by \
{size} pixels and {backbone.in_chans} \
channel{"s" if backbone.in_chans > 1 else ""}.

```python
import timm

model = timm.create_model("local-dir:{folder.name}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
features = model(transform(image)[None])  # image: a PIL image
```

To train it on with a classifier, add `num_classes=10` to `create_model`.
{enlarged}
{lines}
"""

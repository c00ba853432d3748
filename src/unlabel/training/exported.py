"""The network that a checkpoint exports, built from the checkpoint alone.

Neither the images nor the weights that the run started from need be there any more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unlabel.backbones.base import Backbone
from unlabel.backbones.build import describe_backbone, rebuild_backbone
from unlabel.data.store import StoreInfo
from unlabel.errors import DataError
from unlabel.methods.base import Method
from unlabel.training import checkpoint

KEY = "exported"
"""Where a checkpoint's state has it."""


def exported_state(method: Method, info: StoreInfo) -> dict[str, Any]:
    """What a checkpoint must say, so that `load_exported` can build what ``method`` exports.

    Args:
        method: in training or after it.
        info: of the store that it learns from.
    """
    network = method.exported
    at = next(name for name, part in method.named_modules() if part is network)
    pixels = {"mean": list(info.mean), "std": list(info.std)}
    return {KEY: {"at": at, "backbone": describe_backbone(network), **pixels}}


def load_exported(path: Path) -> Backbone:
    """The network that the checkpoint at ``path`` exports, in evaluation mode.

    Its ``mean`` and ``std`` are those of the pixels that it learnt from.

    Raises:
        DataError: the checkpoint is damaged, or does not say what it exports.
    """
    made = checkpoint.read_state(path).get(KEY)
    if made is None:
        raise DataError(
            f"Checkpoint {path} was written by a version of unlabel that did not say what it "
            "exports. Resume its run, or train it anew, with this version."
        )
    backbone = rebuild_backbone(made["backbone"])
    backbone.mean, backbone.std = tuple(made["mean"]), tuple(made["std"])
    checkpoint.load_part(path, backbone, made["at"])
    backbone.pretrained = True
    return backbone.eval()

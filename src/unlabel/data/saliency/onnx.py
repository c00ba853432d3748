"""Saliency from an ONNX file that the user has: U2-Net, U2-NetP, IS-Net and others of their form.

Such networks were trained on masks that people drew, so what follows from them is not label-free.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from unlabel.errors import DataError, InputMissing

SIDE = 320
"""Side in pixels of the input (U2-Net's), where the file leaves it open."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and spread that U2-Net's input is normalised with."""
CENTRED = ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
"""Those of IS-Net, whose input has ``LARGE`` pixels a side."""
LARGE = 1024


class OnnxSaliency:
    """A network from an image to a saliency map.

    Its input is (1, 3, S, S) and its first output one map, (1, 1, h, w) say. Pixels are divided by
    the image's largest and normalised as IS-Net's where S is 1024, else as U2-Net's.
    """

    def __init__(self, session: Any) -> None:
        """Take an ``onnxruntime.InferenceSession``."""
        self.session = session
        self.input: str = session.get_inputs()[0].name
        side = session.get_inputs()[0].shape[-1]
        self.side = side if isinstance(side, int) else SIDE

    @classmethod
    def load(cls, path: Path) -> OnnxSaliency:
        """Load a file, to run on the accelerator that the installed onnxruntime knows.

        Raises:
            InputMissing: the file or onnxruntime is not there.
            DataError: the file is no network of this form, which one trial shows.
        """
        if not path.is_file():
            raise InputMissing(f"There is no ONNX file at {path}.")
        try:
            import onnxruntime
        except ImportError:
            raise InputMissing(
                "ONNX files need onnxruntime: pip install 'unlabel[saliency]'"
            ) from None
        try:
            session = onnxruntime.InferenceSession(
                path, providers=onnxruntime.get_available_providers()
            )
        except Exception as error:  # onnxruntime has no common class of errors
            raise DataError(f"{path} cannot be read as an ONNX network: {_line(error)}") from None
        inputs = [given.shape for given in session.get_inputs()]
        if len(inputs) != 1 or len(inputs[0]) != 4 or inputs[0][1] not in (3, "C", "c", None):
            raise DataError(f"{path} does not take one image (1, 3, S, S): its input is {inputs}.")
        network = cls(session)
        try:
            network(np.zeros((8, 8, 3), np.uint8))
        except Exception as error:
            raise DataError(
                f"{path} does not make one map of one image of {network.side} px, as U2-Net does: "
                f"{_line(error)}"
            ) from None
        return network

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Saliency of an image, uint8 (h, w, 3): float32 (h, w)."""
        height, width = image.shape[:2]
        resized = Image.fromarray(image).resize((self.side,) * 2, Image.Resampling.LANCZOS)
        pixels = np.asarray(resized, np.float32)
        mean, std = CENTRED if self.side == LARGE else IMAGENET
        unit = (pixels / max(float(pixels.max()), 1e-6) - mean) / std
        given = unit.transpose(2, 0, 1)[None].astype(np.float32)
        found = np.asarray(self.session.run(None, {self.input: given})[0], np.float32)
        rows, columns = found.shape[-2:]
        return cv2.resize(found.reshape(rows, columns), (width, height))


def _line(error: Exception) -> str:
    """The first line of what onnxruntime says."""
    return str(error).partition("\n")[0][:200]

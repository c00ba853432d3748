"""ONNX files: the input that a network gets, and the map that comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from unlabel.data.saliency.masks import to_mask
from unlabel.data.saliency.onnx import OnnxSaliency
from unlabel.errors import DataError, InputMissing


@dataclass
class Input:
    name: str
    shape: list


@dataclass
class FakeSession:
    """Remembers what it was given, and answers with its first channel, and another map."""

    shape: list
    given: list[np.ndarray] = field(default_factory=list)

    def get_inputs(self):
        return [Input("pixels", self.shape)]

    def run(self, names, given):
        assert names is None
        (pixels,) = given.values()
        assert list(given) == ["pixels"]
        assert pixels.dtype == np.float32
        self.given.append(pixels)
        return [pixels[:, :1], pixels[:, 1:2]]


def picture(height: int = 70, width: int = 50) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 4, y * 3, (x + y) % 180], axis=2).clip(0, 200).astype(np.uint8)


@pytest.mark.parametrize(
    ("shape", "side", "mean", "std"),
    [
        ([1, 3, 320, 320], 320, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        (["n", 3, "h", "w"], 320, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ([1, 3, 1024, 1024], 1024, [0.5] * 3, [1.0] * 3),
    ],
)
def test_images_are_given_as_the_networks_were_trained(shape, side, mean, std):
    session, image = FakeSession(shape), picture()
    found = OnnxSaliency(session)(image)
    resized = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))
    unit = resized.astype(np.float64) / resized.max()
    wanted = ((unit - mean) / std).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(session.given[0], wanted, atol=1e-5)
    assert found.shape == image.shape[:2]
    back = cv2.resize(wanted[0, 0].astype(np.float32), (50, 70))
    np.testing.assert_allclose(found, back, atol=1e-5)


def test_a_black_image_and_a_flat_answer_give_no_mask():
    found = OnnxSaliency(FakeSession([1, 3, 320, 320]))(np.zeros((9, 9, 3), np.uint8))
    assert np.isfinite(found).all()
    assert to_mask(found, 0.5) is None


def write_convolution(path: Path, given: list, maps: int = 1, kind: str = "FLOAT") -> Path:
    """Write a network of one convolution, the first of whose maps is the brightness."""
    onnx = pytest.importorskip("onnx")
    helper, number = onnx.helper, getattr(onnx.TensorProto, kind)
    weights = helper.make_tensor("w", number, [maps, 3, 1, 1], [0.2, 0.5, 0.3] * maps)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "brightness",
        [helper.make_tensor_value_info("x", number, given)],
        [helper.make_tensor_value_info("y", number, [None] * 4)],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


@pytest.fixture
def brightness(tmp_path) -> Path:
    return write_convolution(tmp_path / "net.onnx", [1, 3, 320, 320])


def test_a_real_file_finds_the_bright_disc(brightness):
    pytest.importorskip("onnxruntime")
    y, x = np.mgrid[:120, :200]
    disc = np.hypot(y - 60, x - 130) < 30
    image = np.where(disc[..., None], 240, 40).astype(np.uint8).repeat(3, 2)[..., :3]
    mask = to_mask(OnnxSaliency.load(brightness)(image), 0.5) > 0
    assert (mask & disc).sum() / (mask | disc).sum() > 0.95


def test_what_is_no_network_is_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(InputMissing, match="no ONNX file"):
        OnnxSaliency.load(tmp_path / "missing.onnx")
    (tmp_path / "x.onnx").write_bytes(b"not a network")
    with pytest.raises(DataError, match="cannot be read as an ONNX network"):
        OnnxSaliency.load(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("given", "maps", "kind"),
    [
        ([1, 3, 320, 480], 1, "FLOAT"),
        ([2, 3, 320, 320], 1, "FLOAT"),
        ([1, 3, 320, 320], 2, "FLOAT"),
        ([1, 3, 320, 320], 1, "FLOAT16"),
    ],
)
def test_networks_of_another_form_are_refused_before_an_image_is_read(tmp_path, given, maps, kind):
    pytest.importorskip("onnxruntime")
    path = write_convolution(tmp_path / "odd.onnx", given, maps, kind)
    with pytest.raises(DataError, match="does not make one map of one image of"):
        OnnxSaliency.load(path)

from __future__ import annotations

import numpy as np
import pytest
import torch

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig
from unlabel.data.spec import Batch
from unlabel.errors import ConfigError
from unlabel.methods.base import DataInfo, Progress
from unlabel.methods.simmim import SimMIM, SimMIMOptions, enlarge, masked_l1

DATA = DataInfo(images=8, classes=0, mean=(0.5,) * 3, std=(0.25,) * 3)
START = Progress(0, 10)
VIT = ModelConfig(
    name="vit_tiny_patch16_224",
    image_size=32,
    patch_size=4,
    arguments={"embed_dim": 48, "depth": 2, "num_heads": 3},
)
SWIN = ModelConfig(
    name="swinv2_tiny_window8_256",
    image_size=64,
    arguments={
        "embed_dim": 16,
        "depths": (1, 1, 2, 1),
        "num_heads": (1, 1, 2, 2),
        "window_size": 4,
    },
)


def simmim(model: ModelConfig = VIT, **options) -> SimMIM:
    torch.manual_seed(0)
    return SimMIM(build_backbone(model), SimMIMOptions(**options), DATA)


def batch_for(method: SimMIM, images: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)
    spec, size = method.spec.masks["images"], method.spec.crops["images"].size
    order = torch.rand(images, spec.patches, generator=generator).argsort(1)
    mask = torch.zeros(images, spec.patches, dtype=torch.bool)
    mask.scatter_(1, order[:, : spec.visible[0]], True)
    views = torch.randn(images, 1, 3, size, size, generator=generator)
    return Batch({"images": views}, {"images": mask[:, None]}, torch.arange(images))


@pytest.mark.parametrize(
    ("size", "patch", "cell"),
    [(192, 16, 32), (224, 16, 32), (128, 16, 32), (32, 4, 4), (28, 4, 4), (64, 8, 8), (96, 16, 16)],
)
def test_cells_are_32_pixels_or_six_by_six(size, patch, cell):
    model = VIT.model_copy(update={"image_size": size, "patch_size": patch})
    method = simmim(model)
    assert method.cell == cell
    assert method.spec.masks["images"].grid == (size // cell, size // cell)


def test_six_by_six_cells_hide_22():
    method = simmim(VIT.model_copy(update={"image_size": 192, "patch_size": 16}))
    assert method.spec.masks["images"].visible == (36 - 22,)
    assert method.spec.crops["images"].scale == (0.67, 1.0)


@pytest.mark.parametrize("target", ["pixels", "local"])
@pytest.mark.parametrize("model", [VIT, SWIN], ids=["vit", "swin"])
def test_loss_against_float64_numpy_from_the_equation(model, target):
    """Sum over hidden pixels of |x - x^|, over their number + 1e-5, over channels; by loops."""
    window = 5
    method = simmim(model, target=target, window=window).eval()
    batch = batch_for(method, images=2)
    images = batch.views["images"][:, 0]
    size, cell = images.shape[-1], method.cell
    seen = batch.masks["images"][:, 0].numpy().reshape(2, size // cell, size // cell)
    with torch.no_grad():
        loss = method(batch, START).total.item()
        predicted = predict_by_convolution(method, images, seen)
    x, error, count = images.double().numpy(), 0.0, 0
    for b in range(2):
        for row in range(size):
            for column in range(size):
                if seen[b, row // cell, column // cell]:
                    continue
                count += 1
                pixel = x[b, :, row, column]
                if target == "local":
                    pixel = standardised(x[b], row, column, window)
                error += np.abs(pixel - predicted[b, :, row, column]).sum()
    assert loss == pytest.approx(error / (count + 1e-5) / 3, rel=1e-5)


def standardised(image: np.ndarray, row: int, column: int, window: int) -> np.ndarray:
    half = window // 2
    rows = slice(max(0, row - half), row + half + 1)
    columns = slice(max(0, column - half), column + half + 1)
    around = image[:, rows, columns].reshape(3, -1)
    deviation = np.sqrt(around.var(1, ddof=1) + 1e-6)
    return (image[:, row, column] - around.mean(1)) / deviation


def predict_by_convolution(method: SimMIM, images: torch.Tensor, seen: np.ndarray) -> np.ndarray:
    """The published head: a 1 x 1 convolution and a pixel shuffle over the token map."""
    backbone, stride = method.backbone, method.backbone.stride
    patches = np.kron(~seen, np.ones((1, method.patches_a_cell, method.patches_a_cell), bool))
    mask = torch.from_numpy(patches.reshape(len(seen), -1))
    tokens = backbone.tokens(images, mask=mask, mask_token=method.mask_token)
    tokens = tokens[:, backbone.prefix :]
    maps = tokens.transpose(1, 2).unflatten(2, backbone.grid).double()
    convolution = torch.nn.Conv2d(backbone.dim, stride**2 * 3, 1).double()
    weight = method.head.weight.double().unflatten(0, (stride**2, 3)).transpose(0, 1)
    bias = method.head.bias.double().unflatten(0, (stride**2, 3)).transpose(0, 1)
    convolution.weight.copy_(weight.flatten(0, 1)[..., None, None])
    convolution.bias.copy_(bias.flatten())
    return torch.nn.functional.pixel_shuffle(convolution(maps), stride).numpy()


@pytest.mark.parametrize("model", [VIT, SWIN], ids=["vit", "swin"])
def test_hidden_pixels_do_not_reach_the_network(model):
    method = simmim(model).eval()
    batch = batch_for(method)
    images = batch.views["images"][:, 0].clone().requires_grad_()
    side = images.shape[-1] // method.cell
    hidden = ~batch.masks["images"][:, 0].view(-1, side, side)
    mask = enlarge(hidden, method.patches_a_cell).flatten(1)
    tokens = method.backbone.tokens(images, mask=mask, mask_token=method.mask_token)
    tokens.square().sum().backward()
    pixels = enlarge(hidden, method.cell)[:, None].expand_as(images)
    assert not images.grad[pixels].any()
    assert images.grad[~pixels].any()


def test_enlarge_repeats_cells():
    cells = torch.tensor([[[True, False]]])
    assert enlarge(cells, 2).tolist() == [[[True, True, False, False]] * 2]


def test_masked_l1_of_one_pixel():
    predicted, target = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    target[0, :, 1, 0] = torch.tensor([1.0, 2.0, 3.0])
    target[0, :, 0, 0] = 100.0
    hidden = torch.tensor([[[False, False], [True, False]]])
    assert masked_l1(predicted, target, hidden).item() == pytest.approx(2.0, rel=1e-4)


def test_default_window_is_47_at_192_pixels():
    large = VIT.model_copy(update={"image_size": 192, "patch_size": 16})
    assert simmim(large, target="local").window == 47
    assert simmim(target="local").window == 7
    assert simmim().window is None


def test_the_mask_token_learns_and_does_not_decay():
    method = simmim(SWIN)
    method(batch_for(method), START).total.backward()
    assert method.mask_token.grad.abs().sum() > 0
    assert method.no_weight_decay() == {"mask_token"}
    assert set(method.no_weight_decay()) <= {name for name, _ in method.named_parameters()}


def test_swin_exempts_its_position_networks_and_scales_from_decay():
    net = simmim(SWIN).backbone.net
    wanted = {n for n, _ in net.named_parameters() if "cpb_mlp" in n or "logit_scale" in n}
    assert wanted
    assert wanted <= set(net.no_weight_decay())


def test_what_cannot_fit_is_refused_with_what_can():
    with pytest.raises(ConfigError, match="possible are 4, 8, 16"):
        simmim(mask_cell=5)
    with pytest.raises(ConfigError, match="hides all"):
        simmim(mask_ratio=0.999)
    with pytest.raises(ConfigError, match="odd"):
        simmim(target="local", window=6)


@pytest.mark.parametrize("target", ["pixels", "local"])
def test_the_studys_own_size_without_waiting_for_the_device(target):
    """On the meta device whatever needs a value on the host raises."""
    with torch.device("meta"):
        method = SimMIM(
            build_backbone(ModelConfig(name="swinv2_s")), SimMIMOptions(target=target), DATA
        )
        views, masks = torch.empty(2, 1, 3, 192, 192), torch.empty(2, 1, 36, dtype=torch.bool)
        batch = Batch({"images": views}, {"images": masks}, torch.arange(2))
        method(batch, START).total.backward()
    assert (method.cell, method.patches_a_cell) == (32, 8)
    assert method.head.out_features == 32 * 32 * 3
    assert method.spec.masks["images"].visible == (14,)

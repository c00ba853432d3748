"""DALL-E's image encoder as a tokenizer (Ramesh et al., arXiv 2102.12092; used by BEiT).

The layout and the names of the weights are those of the published encoder, so its state dict loads
as it is. Shapes: B images, N patches.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate

from unlabel.backbones.weights import differences, read_weights
from unlabel.errors import ConfigError
from unlabel.methods.parts.precision import full_precision

STRIDE = 8
GROUPS, BLOCKS = 4, 2
CONVERT = (
    "The released encoder.pkl is a pickled program, which unlabel does not run. Where you trust it "
    "and have the dall_e package, convert it once: safetensors.torch.save_file("
    "torch.load('encoder.pkl', weights_only=False).state_dict(), 'encoder.safetensors')"
)


class DVAETokenizer(nn.Module):
    """The token of a patch is the encoder's most likely one; the encoder is never trained.

    The image is resized so that the encoder's stride of 8 pixels meets the backbone's grid, and its
    pixels are mapped from [0, 1] to [0.1, 0.9], as the encoder was trained.

    Args:
        path: local weights file of the encoder (see ``read_weights``).
        grid: rows and columns of the backbone's patches.
        mean: with ``std``, what undoes the normalisation, one value a channel.
        std: see ``mean``.

    Raises:
        ConfigError: weights of another network.
        InputMissing, DataError: no such file, or one that is no weights file.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, path: str, grid: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.size = [STRIDE * cells for cells in grid]
        self.encoder = load_encoder(path).requires_grad_(False)
        self.vocabulary = self.encoder.vocabulary
        for name, value in (("mean", mean), ("std", std)):
            buffer = torch.tensor(value, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    def fit(self, pixels: Tensor) -> None:
        """Nothing is left to learn."""

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor:
        """int64 (B, N)."""
        pixels = images.float() * self.std + self.mean
        pixels = interpolate(pixels, self.size, mode="bicubic", antialias=True).clamp(0, 1)
        with full_precision(images):
            return self.encoder(0.8 * pixels + 0.1).argmax(1).flatten(1)


def load_encoder(path: str) -> Encoder:
    """The encoder, as wide as the weights in ``path``."""
    if Path(path).suffix == ".pkl":
        raise ConfigError(f"{path}: {CONVERT}")
    weights = read_weights(path)
    stem, last = weights.get("blocks.input.w"), weights.get("blocks.output.conv.w")
    if stem is None or last is None or stem.ndim != 4 or last.ndim != 4:
        raise ConfigError(f"{path} does not hold DALL-E's encoder. {CONVERT}")
    with torch.device("meta"):
        encoder = Encoder(width=stem.shape[0], vocabulary=last.shape[0])
    if lines := differences(weights, encoder.state_dict()):
        raise ConfigError("\n".join([f"{path} does not hold DALL-E's encoder:", *lines]))
    encoder.to_empty(device="cpu").load_state_dict(weights)
    return encoder


class Encoder(nn.Module):
    """Convolutions from RGB (B, 3, H, W) to logits (B, vocabulary, H / 8, W / 8).

    A 7 by 7 convolution, four groups of two bottleneck blocks at 1, 2, 4 and 8 times ``width`` with
    max-pooling between them, and a linear layer a cell.
    """

    def __init__(self, width: int = 256, vocabulary: int = 8192) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        layers: dict[str, nn.Module] = {"input": Conv(3, width, 7)}
        before = width
        for group in range(GROUPS):
            after = width << group
            parts: dict[str, nn.Module] = {
                "block_1": Bottleneck(before, after),
                "block_2": Bottleneck(after, after),
            }
            if group < GROUPS - 1:
                parts["pool"] = nn.MaxPool2d(2)
            layers[f"group_{group + 1}"] = nn.Sequential(OrderedDict(parts))
            before = after
        head = {"relu": nn.ReLU(), "conv": Conv(before, vocabulary, 1)}
        layers["output"] = nn.Sequential(OrderedDict(head))
        self.blocks = nn.Sequential(OrderedDict(layers))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the tokens, for pixels in [0.1, 0.9]."""
        return self.blocks(images)


class Bottleneck(nn.Module):
    """A residual block whose branch is weighed by 1 / (number of blocks) squared."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        inner = after // 4
        widths = [before, inner, inner, inner, after]
        self.gain = 1 / (GROUPS * BLOCKS) ** 2
        self.id_path = Conv(before, after, 1) if before != after else nn.Identity()
        parts: dict[str, nn.Module] = {}
        for i, side in enumerate((3, 3, 3, 1), start=1):
            parts[f"relu_{i}"] = nn.ReLU()
            parts[f"conv_{i}"] = Conv(widths[i - 1], widths[i], side)
        self.res_path = nn.Sequential(OrderedDict(parts))

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, after, H, W)."""
        return self.id_path(x) + self.gain * self.res_path(x)


class Conv(nn.Module):
    """A convolution that keeps the size, with the published names of its weights."""

    def __init__(self, before: int, after: int, side: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(after, before, side, side) / (before * side**2) ** 0.5)
        self.b = nn.Parameter(torch.zeros(after))

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, after, H, W)."""
        return conv2d(x, self.w, self.b, padding=self.w.shape[-1] // 2)

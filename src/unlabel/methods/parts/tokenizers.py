"""Tokenizers: one of a vocabulary's tokens for each patch, as the target of masked modelling.

Three compare a patch's pixels with a codebook (SplitMask, section 3.3 and Table 2); the fourth is
DALL-E's trained encoder, which BEiT used. Shapes: B images, N patches (row-major), d values of a
patch, V tokens.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, normalize

from unlabel.backbones.base import Backbone
from unlabel.config import Settings
from unlabel.errors import ConfigError
from unlabel.methods.base import DataInfo
from unlabel.methods.parts.dvae import DVAETokenizer
from unlabel.methods.parts.kmeans import spherical_kmeans
from unlabel.methods.parts.pixels import patchify
from unlabel.methods.parts.positions import take
from unlabel.methods.parts.precision import full_precision

SIDE = 8
"""Largest side of a compared patch in pixels (the paper's patches; BEiT's second view)."""
SAMPLE = 65_536
"""Most patches that k-means learns from."""
FLAT = 1e-3
"""Length (of pixels in [0, 1]) below which a patch is flat: what is left of it is rounding."""
SPARE = 4
"""Patches looked at for each one wanted, as flat ones are left out."""


class TokenizerOptions(Settings):
    """What the methods that predict visual tokens have in common."""

    tokenizer: Literal["random-projection", "random-patches", "k-means", "dvae"] = (
        "random-projection"
    )
    """``random-projection`` needs no training and did as well as the trained ones in the paper."""
    vocabulary: int = Field(8192, ge=2)
    """Number of tokens; ``dvae`` brings its own."""
    centring: Literal["none", "patch"] = "patch"
    """Take each patch's mean out before it is compared; not given in the paper. Without it a random
    projection hardly tells patches apart."""
    projection_range: tuple[float, float] = (-1.0, 1.0)
    """Range of the random projection's uniform values; not given in the paper."""
    dvae_weights: str | None = None
    """Local file with the weights of DALL-E's encoder, for ``dvae``."""


class Tokenizer(Protocol):
    """What a method needs of a tokenizer, which is a module whose buffers are saved."""

    vocabulary: int

    def fit(self, pixels: Tensor) -> None:
        """Learn from normalised training crops (n, C, H, W), if there is anything to learn."""

    def tokens(self, images: Tensor) -> Tensor:
        """int64 (B, N): the token of each patch of normalised images (B, C, H, W)."""


def build_tokenizer(options: TokenizerOptions, backbone: Backbone, data: DataInfo) -> Tokenizer:
    """The tokenizer that ``options`` ask for, on the backbone's grid.

    Raises:
        ConfigError: ``dvae`` without weights or for images that are not RGB, or an empty range.
        DataError: weights that are no weights.
    """
    if options.tokenizer == "dvae":
        if options.dvae_weights is None:
            raise ConfigError("options.tokenizer 'dvae' needs options.dvae_weights, a local file")
        if backbone.in_chans != 3:
            raise ConfigError("options.tokenizer 'dvae' is for images with 3 channels")
        return DVAETokenizer(options.dvae_weights, backbone.grid, data.mean, data.std)
    low, high = options.projection_range
    if not low < high:
        raise ConfigError(f"options.projection_range {low}, {high} is empty")
    return Codebook(options, backbone, data)


class Codebook(nn.Module):
    """The token of a patch is the unit vector of the codebook that is nearest by cosine.

    Pixels are compared in [0, 1]. Patches of more than 8 pixels a side are averaged down to 8 by 8.
    Flat patches point nowhere once their mean is gone: they all get token 0.
    When there are fewer patches to learn from than tokens, the rows left over stay zero and are
    never given: ``offset`` is minus infinity there.
    """

    codebook: Tensor
    offset: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, options: TokenizerOptions, backbone: Backbone, data: DataInfo) -> None:
        super().__init__()
        self.kind = options.tokenizer
        self.vocabulary = options.vocabulary
        self.centring = options.centring
        self.grid = backbone.grid
        self.side = min(SIDE, backbone.stride)
        low, high = options.projection_range
        values = torch.empty(self.vocabulary, self.side**2 * backbone.in_chans)
        self.register_buffer("codebook", normalize(values.uniform_(low, high), dim=1))
        self.register_buffer("offset", torch.zeros(self.vocabulary))
        for name, value in (("mean", data.mean), ("std", data.std)):
            buffer = torch.tensor(value, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    @torch.no_grad()
    def fit(self, pixels: Tensor) -> None:
        """Fill the codebook from training crops; a random projection stays as it was drawn."""
        if self.kind == "random-projection":
            return
        wanted = self.vocabulary if self.kind == "random-patches" else SAMPLE
        vectors = _mixed(self._sample(pixels, SPARE * wanted))[:wanted]
        codes = vectors
        if self.kind == "k-means":
            codes = spherical_kmeans(vectors, self.vocabulary)
        self.codebook.zero_()[: len(codes)] = codes
        self.offset.zero_()[len(codes) :] = float("-inf")

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor:
        """int64 (B, N), by one matrix product in float32."""
        vectors = self.vectors(images)
        with full_precision(images):
            scores = torch.addmm(self.offset, vectors.flatten(0, 1), self.codebook.T)
        flat = vectors.norm(dim=2) < FLAT
        return scores.max(1).indices.view(flat.shape).masked_fill(flat, 0)

    def _sample(self, pixels: Tensor, wanted: int) -> Tensor:
        """About ``wanted`` patches (n, k, d), k drawn from each image; a few images at a time."""
        each = -(-wanted // len(pixels))
        drawn = []
        for images in pixels.split(256):
            vectors = self.vectors(images)
            index = torch.rand(vectors.shape[:2]).argsort(1)[:, :each]
            drawn.append(take(vectors, index))
        return torch.cat(drawn)

    def vectors(self, images: Tensor) -> Tensor:
        """What is compared, (B, N, d): pixels in [0, 1], or centred ones."""
        rows, columns = self.grid
        size = (self.side * rows, self.side * columns)
        pixels = adaptive_avg_pool2d(images.float() * self.std + self.mean, size)
        patches = patchify(pixels, self.side)
        return patches - patches.mean(2, keepdim=True) if self.centring == "patch" else patches


def _mixed(vectors: Tensor) -> Tensor:
    """Unit patches (m, d) of (n, k, d) in random order, one of each image before a second one.

    Flat patches, which have no direction, are left out; if all are flat, one is kept.
    """
    shape = vectors.shape[:2]
    turn = torch.arange(shape[1]).expand(shape)
    order = (turn + 0.99 * torch.rand(shape)).flatten().argsort()
    mixed = vectors.flatten(0, 1)[order]
    lively = mixed[mixed.norm(dim=1) >= FLAT]
    return normalize(lively if len(lively) else mixed[:1], dim=1)

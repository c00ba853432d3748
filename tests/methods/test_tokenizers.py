from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from torch import nn

from unlabel.backbones.build import build_backbone
from unlabel.config import ModelConfig
from unlabel.errors import ConfigError, DataError
from unlabel.methods.base import DataInfo
from unlabel.methods.parts.dvae import Encoder
from unlabel.methods.parts.kmeans import spherical_kmeans
from unlabel.methods.parts.tokenizers import Tokenizer, TokenizerOptions, build_tokenizer
from unlabel.methods.parts.visual_tokens import token_loss

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
DATA = DataInfo(images=8, classes=0, mean=MEAN, std=STD)
TINY = {"embed_dim": 24, "depth": 1, "num_heads": 3}


def tokenizer(size: int = 32, patch: int = 8, seed: int = 0, **options) -> Tokenizer:
    torch.manual_seed(seed)
    model = ModelConfig(
        name="vit_tiny_patch16_224", image_size=size, patch_size=patch, arguments=TINY
    )
    settings = TokenizerOptions(**{"vocabulary": 64} | options)
    return build_tokenizer(settings, build_backbone(model), DATA)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return (pixels - mean) / std


@pytest.mark.parametrize("centring", ["none", "patch"])
@pytest.mark.parametrize(("size", "patch"), [(32, 8), (64, 16), (16, 4), (28, 14)])
def test_tokens_are_the_cosine_argmax_of_a_loop(centring, size, patch):
    own = tokenizer(size, patch, centring=centring)
    pixels = torch.rand(2, 3, size, size)
    found = own.tokens(normalised(pixels))
    side = min(8, patch)
    for b in range(2):
        for n in range((size // patch) ** 2):
            row, column = divmod(n, size // patch)
            cell = pixels[b, :, row * patch :, column * patch :][:, :patch, :patch]
            if patch % 8 == 0:
                cell = nn.functional.avg_pool2d(cell, patch // side)
            else:
                cell = nn.functional.adaptive_avg_pool2d(cell, side)
            x = cell.permute(1, 2, 0).flatten().double()
            x = x - x.mean() if centring == "patch" else x
            cosine = torch.cosine_similarity(own.codebook.double(), x[None])
            assert found[b, n] == cosine.argmax()


@settings(max_examples=20, deadline=None)
@given(gain=st.floats(0.1, 3), shift=st.floats(-0.5, 0.5))
def test_centred_tokens_ignore_brightness_and_contrast(gain, shift):
    own = tokenizer()
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    changed = own.tokens(normalised(pixels * gain + shift))
    assert (changed == own.tokens(normalised(pixels))).float().mean() > 0.95


def test_the_codebook_has_unit_vectors_and_a_random_one_needs_no_images():
    own = tokenizer(projection_range=(0.0, 1.0), centring="none")
    before = own.codebook.clone()
    own.fit(torch.randn(2, 3, 32, 32))
    assert torch.equal(before, own.codebook)
    assert (own.codebook >= 0).all()
    torch.testing.assert_close(own.codebook.norm(dim=1), torch.ones(64))


def test_random_patches_come_from_different_images_and_get_their_own_token():
    own = tokenizer(tokenizer="random-patches", vocabulary=10)
    images = torch.randn(10, 3, 32, 32)
    own.fit(images)
    vectors = nn.functional.normalize(own.vectors(images), dim=2)
    scores = vectors.flatten(0, 1) @ own.codebook.T
    sources = (scores.max(0).indices // 16).tolist()
    assert sorted(sources) == list(range(10))
    torch.testing.assert_close(scores.max(0).values, torch.ones(10))


@pytest.mark.parametrize("kind", ["random-patches", "k-means"])
def test_with_fewer_patches_than_tokens_the_rest_is_never_given(kind):
    own = tokenizer(tokenizer=kind, vocabulary=64)
    own.fit(torch.randn(2, 3, 32, 32))
    tokens = own.tokens(torch.randn(50, 3, 32, 32))
    assert own.codebook.shape == (64, 192)
    assert tokens.max() < 32
    own.fit(torch.zeros(2, 3, 32, 32))
    assert own.tokens(torch.randn(2, 3, 32, 32)).max() < 64


@pytest.mark.parametrize("kind", ["random-projection", "random-patches", "k-means"])
def test_the_state_brings_the_tokens_back(kind):
    first = tokenizer(tokenizer=kind)
    first.fit(torch.randn(8, 3, 32, 32))
    again = tokenizer(tokenizer=kind, seed=5)
    images = torch.randn(4, 3, 32, 32)
    assert not torch.equal(first.tokens(images), again.tokens(images))
    again.load_state_dict(first.state_dict())
    assert torch.equal(first.tokens(images), again.tokens(images))


def test_autocast_does_not_change_tokens():
    own, images = tokenizer(), torch.randn(4, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = own.tokens(images)
    assert torch.equal(inside, own.tokens(images))


def test_kmeans_finds_separate_directions_and_improves_on_its_start():
    torch.manual_seed(0)
    centres = nn.functional.normalize(torch.randn(5, 20), dim=1)
    label = torch.arange(500) % 5
    vectors = nn.functional.normalize(centres[label] + 0.02 * torch.randn(500, 20), dim=1)
    quality = []
    for iterations in (0, 1, 10):
        torch.manual_seed(1)
        quality.append((vectors @ spherical_kmeans(vectors, 40, iterations).T).amax(1).mean())
    assert quality[0] < quality[1] <= quality[2]
    found = spherical_kmeans(vectors, 40)
    assert ((found @ centres.T).amax(0) > 0.99).all()
    torch.testing.assert_close(found.norm(dim=1), torch.ones(40))


def test_one_step_of_kmeans_is_the_mean_direction_of_members():
    torch.manual_seed(0)
    vectors = nn.functional.normalize(torch.randn(60, 6, dtype=torch.float64), dim=1)
    state = torch.get_rng_state()
    start = spherical_kmeans(vectors, 4, 0)
    torch.set_rng_state(state)
    moved = spherical_kmeans(vectors, 4, 1)
    member = [max(range(4), key=lambda c: float(v @ start[c])) for v in vectors]
    for c in range(4):
        mean = sum(v for v, m in zip(vectors, member, strict=True) if m == c)
        torch.testing.assert_close(moved[c], mean / mean.norm())


def test_kmeans_is_fast_enough():
    vectors = nn.functional.normalize(torch.randn(60_000, 48), dim=1)
    start = time.process_time()
    spherical_kmeans(vectors, 512)
    assert time.process_time() - start < 20


def functional_encoder(x: torch.Tensor, w: dict[str, torch.Tensor]) -> torch.Tensor:
    """DALL-E's encoder written out over its weights' names, without modules."""

    def conv(x: torch.Tensor, name: str) -> torch.Tensor:
        kernel = w[f"blocks.{name}.w"]
        pad = (kernel.shape[-1] - 1) // 2
        cut = nn.functional.unfold(x, kernel.shape[-1], padding=pad)
        out = kernel.flatten(1) @ cut + w[f"blocks.{name}.b"][:, None]
        return out.unflatten(2, x.shape[-2:])

    x = conv(x, "input")
    for group in (1, 2, 3, 4):
        for block in (1, 2):
            at = f"group_{group}.block_{block}"
            y = x
            for i in (1, 2, 3, 4):
                y = conv(y.clamp(min=0), f"{at}.res_path.conv_{i}")
            if f"blocks.{at}.id_path.w" in w:
                x = conv(x, f"{at}.id_path")
            x = x + y / 64
        if group < 4:
            b, c, h, wide = x.shape
            x = x.reshape(b, c, h // 2, 2, wide // 2, 2).amax((3, 5))
    return conv(x.clamp(min=0), "output.conv")


def test_the_dvae_is_the_published_network(tmp_path):
    torch.manual_seed(0)
    encoder = Encoder(width=8, vocabulary=24)
    nn.init.normal_(encoder.blocks.output.conv.b)
    weights = {name: value.detach().clone() for name, value in encoder.state_dict().items()}
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(encoder(x), functional_encoder(x, weights), atol=1e-4, rtol=1e-4)
    save_file(weights, tmp_path / "encoder.safetensors")
    own = tokenizer(32, 8, tokenizer="dvae", dvae_weights=str(tmp_path / "encoder.safetensors"))
    assert own.vocabulary == 24
    assert not any(p.requires_grad for p in own.parameters())
    expected = functional_encoder(0.8 * x + 0.1, weights).argmax(1).flatten(1)
    assert torch.equal(own.tokens(normalised(x)), expected)
    coarse = tokenizer(64, 16, tokenizer="dvae", dvae_weights=str(tmp_path / "encoder.safetensors"))
    assert coarse.tokens(torch.randn(1, 3, 64, 64)).shape == (1, 16)


def test_the_published_encoder_has_54_million_weights():
    with torch.device("meta"):
        encoder = Encoder()
    assert sum(p.numel() for p in encoder.parameters()) == 53_786_240
    assert encoder.blocks.group_4.block_1.id_path.w.shape == (2048, 1024, 1, 1)


def test_dvae_weights_that_do_not_fit_are_explained(tmp_path):
    with pytest.raises(ConfigError, match="dvae_weights"):
        tokenizer(tokenizer="dvae")
    (tmp_path / "encoder.pkl").write_bytes(b"x")
    with pytest.raises(ConfigError, match="convert it once"):
        tokenizer(tokenizer="dvae", dvae_weights=str(tmp_path / "encoder.pkl"))
    (tmp_path / "bad.safetensors").write_bytes(b"x")
    with pytest.raises(DataError):
        tokenizer(tokenizer="dvae", dvae_weights=str(tmp_path / "bad.safetensors"))
    weights = Encoder(width=8, vocabulary=24).state_dict()
    weights.pop("blocks.group_2.block_1.id_path.b")
    save_file(weights, tmp_path / "short.safetensors")
    with pytest.raises(ConfigError, match=r"1 missing: blocks\.group_2"):
        tokenizer(tokenizer="dvae", dvae_weights=str(tmp_path / "short.safetensors"))
    save_file({"head": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="does not hold"):
        tokenizer(tokenizer="dvae", dvae_weights=str(tmp_path / "other.safetensors"))


def test_an_empty_range_is_refused():
    with pytest.raises(ConfigError, match="projection_range"):
        tokenizer(projection_range=(1.0, 1.0))


def test_token_loss_against_float64_loops():
    torch.manual_seed(0)
    logits, targets = torch.randn(40, 7), torch.randint(7, (40,))
    counted = torch.rand(40) < 0.7
    head = torch.nn.Linear(7, 7)
    torch.nn.init.eye_(head.weight)
    torch.nn.init.zeros_(head.bias)
    loss, scalars = token_loss(logits, head, targets, counted)
    rows = [(row.double(), int(t)) for row, t, c in zip(logits, targets, counted, strict=True) if c]
    expected = sum(row.exp().sum().log() - row[t] for row, t in rows) / len(rows)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    right = sum(int(row.argmax()) == t for row, t in rows) / len(rows)
    assert scalars["mim_accuracy"].item() == pytest.approx(right)
    shares = torch.tensor([sum(t == v for _, t in rows) / len(rows) for v in range(7)])
    assert scalars["majority_share"].item() == pytest.approx(shares.max().item())
    entropy = -sum(s * s.log() for s in shares.double() if s > 0)
    assert scalars["token_perplexity"].item() == pytest.approx(entropy.exp().item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["random-projection", "random-patches", "k-means"])
def test_flat_patches_share_a_token_whatever_their_brightness(kind):
    """What their centring leaves is rounding, which must not choose their tokens."""
    method = tokenizer(tokenizer=kind, vocabulary=16)
    levels = normalised(torch.linspace(0, 1, 64)[:, None, None, None].expand(-1, 3, 32, 32))
    lively = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    method.fit(torch.cat([levels, lively]))
    assert (method.tokens(levels) == 0).all()
    assert len(method.tokens(lively).unique()) > 8
    used = method.codebook[method.offset == 0]
    torch.testing.assert_close(used.norm(dim=1), torch.ones(len(used)))
    method.fit(levels)
    assert torch.isfinite(method.codebook).all()
    assert (method.tokens(levels) == 0).all()


def test_centring_makes_a_random_projection_use_more_tokens():
    """On photographs: brightness alone chooses among few words."""
    china, flower = load_sample_images().images
    crops = [
        torch.from_numpy(image[y : y + 64, x : x + 64].copy()).permute(2, 0, 1) / 255
        for image in (china, flower)
        for y in range(0, 384, 64)
        for x in range(0, 576, 64)
    ]
    images = normalised(torch.stack(crops))
    perplexity = {}
    for centring in ("none", "patch"):
        tokens = tokenizer(64, vocabulary=1024, centring=centring).tokens(images)
        share = tokens.flatten().bincount(minlength=1024) / tokens.numel()
        perplexity[centring] = torch.special.entr(share).sum().exp().item()
    assert perplexity["patch"] > 5 * perplexity["none"]

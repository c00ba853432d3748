"""Golden pixels of photographs and drawings in every mode that their formats have."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from image_files import chunk, picture, saved, smooth
from PIL import Image

from unlabel.data.decode import decode

# How a picture is stored under each orientation, so that turning it back gives the picture.
STORED = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_undone(orientation, form):
    upright = picture(6, 9)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    stored = np.ascontiguousarray(STORED[orientation](upright))
    found = decode(saved(stored, form, exif=exif, **options))
    np.testing.assert_array_equal(found.pixels, upright)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_jpeg(orientation):
    upright = smooth(40, 64)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(
        np.ascontiguousarray(STORED[orientation](upright)), "JPEG", quality=98, subsampling=0,
        exif=exif,
    )  # fmt: skip
    found = decode(data)
    assert np.abs(found.pixels.astype(int) - upright).max() <= 6
    assert (found.jpeg == data) == (orientation == 1)


@pytest.mark.parametrize("value", [0, 9, 77])
def test_orientation_that_means_nothing_is_ignored(value):
    exif = Image.Exif()
    exif[0x0112] = value
    np.testing.assert_array_equal(decode(saved(picture(), "PNG", exif=exif)).pixels, picture())


def test_broken_exif_is_ignored():
    data = saved(picture(16, 16), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 40)
    assert decode(data).pixels.shape == (16, 16, 3)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_rgb_is_exact(form):
    found = decode(saved(picture(), form))
    np.testing.assert_array_equal(found.pixels, picture())
    assert found.note == ""
    assert found.jpeg is None


def test_grey_is_repeated():
    grey = picture(channels=1)
    for form in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(decode(saved(grey, form)).pixels, np.dstack([grey] * 3))


def test_jpeg_is_as_pillow_decodes_it_and_kept():
    for image in (smooth(), smooth()[..., 0]):
        data = saved(image, "JPEG", quality=90)
        found = decode(data)
        peer = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert np.abs(found.pixels.astype(int) - peer).max() <= 2
        assert found.jpeg == data


def test_progressive_jpeg():
    data = saved(smooth(), "JPEG", progressive=True)
    peer = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(decode(data).pixels.astype(int) - peer).max() <= 2


def test_one_bit():
    bits = picture(channels=1) > 127
    expected = np.dstack([bits.astype(np.uint8) * 255] * 3)
    for form in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(decode(saved(Image.fromarray(bits), form)).pixels, expected)


def test_palette():
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    expected = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 0]]]
    for form in ("PNG", "GIF", "BMP"):
        np.testing.assert_array_equal(decode(saved(palette, form)).pixels, expected)


def test_palette_with_transparency_shows_white():
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    found = decode(saved(palette, "PNG", transparency=1)).pixels
    np.testing.assert_array_equal(found, [[[255, 0, 0], [255] * 3], [[0, 0, 255], [255] * 3]])


def test_palette_with_alpha_a_colour():
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([200, 0, 0, 0, 100, 0])
    found = decode(saved(palette, "PNG", transparency=bytes([128, 255]))).pixels
    expected = np.rint(np.array([200, 0, 0]) * 128 / 255 + 255 * 127 / 255)
    assert np.abs(found[0, 0] - expected).max() <= 1
    np.testing.assert_array_equal(found[0, 1], [0, 100, 0])


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_laid_over_white(channels):
    image = picture(channels=channels)
    image[..., -1] = np.where(image[..., -1] > 170, 255, np.where(image[..., -1] > 85, 100, 0))
    found = decode(saved(image, "PNG")).pixels
    alpha = image[..., -1:] / 255
    expected = image[..., :-1] * alpha + 255 * (1 - alpha)
    assert np.abs(found - expected).max() <= 1
    np.testing.assert_array_equal(found[alpha[..., 0] == 0], 255)


def test_cmyk_jpeg_and_tiff():
    cmyk = Image.fromarray(smooth()).convert("CMYK")
    expected = np.asarray(cmyk.convert("RGB")).astype(int)
    assert np.abs(decode(saved(cmyk, "TIFF")).pixels - expected).max() == 0
    found = decode(saved(cmyk, "JPEG", quality=98, subsampling=0))
    assert np.abs(found.pixels - expected).max() <= 8
    assert found.jpeg is None


def test_ycck_jpeg():
    """A four-channel JPEG whose Adobe marker says YCCK: Y, Cb, Cr of inverted CMY, and K."""
    ycc = np.asarray(Image.fromarray(255 - smooth()).convert("YCbCr"))
    black = np.full(ycc.shape[:2], 255, np.uint8)  # inverted: no black
    fake = Image.fromarray(255 - np.dstack([ycc, black]), "CMYK")  # Pillow inverts as Adobe does
    data = bytearray(saved(fake, "JPEG", quality=98, subsampling=0))
    marker = data.index(b"Adobe")
    data[marker + 11] = 2  # transform: YCCK
    found = decode(bytes(data)).pixels
    assert np.abs(found.astype(int) - smooth()).max() <= 8


def test_16_bit_grey_png_is_kept():
    ramp = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    found = decode(saved(Image.fromarray(ramp), "PNG"))
    np.testing.assert_array_equal(found.pixels[..., 0], ramp)
    assert found.pixels.dtype == np.uint16
    assert found.note == "16 bits kept"


def test_16_bit_rgb_png_is_kept_in_order():
    deep = np.random.default_rng(0).integers(0, 65_536, (8, 8, 3), dtype=np.uint16)
    data = cv2.imencode(".png", deep[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode(data).pixels, deep)


def raw_png(width, height, bits, colour, pixels):
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    rows = b"".join(b"\0" + pixels[y].tobytes() for y in range(len(pixels)))
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("colour", "channels"), [(4, 2), (6, 4)])
def test_16_bit_png_with_alpha(colour, channels):
    deep = np.random.default_rng(0).integers(0, 65_536, (8, 8, channels), dtype=np.uint16)
    deep[0, :, -1], deep[1, :, -1] = 65_535, 0
    found = decode(raw_png(8, 8, 16, colour, deep.astype(">u2"))).pixels
    assert found.shape == (8, 8, channels - 1)
    alpha = deep[..., -1:] / 65_535
    expected = deep[..., :-1] * alpha + 65_535 * (1 - alpha)
    assert np.abs(found - expected).max() <= 1
    np.testing.assert_array_equal(found[0], deep[0, :, :-1])


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    data = saved(frames[0], form, save_all=True, append_images=frames[1:], **options)
    found = decode(data)
    np.testing.assert_array_equal(found.pixels, np.full((8, 8, 3), [255, 0, 0]))
    assert found.note == "first frame of several"

"""Golden pixels of TIFF, NumPy and DICOM: n channels, 16 bits and floats stay as they are."""

from __future__ import annotations

import io
import struct
import sys

import numpy as np
import pytest
import tifffile
from image_files import dicom, npy, picture, saved, smooth, tiff
from PIL import Image

from unlabel.data.decode import Refused, as_image, decode


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_of_many_channels(dtype, planar, compression):
    image = (np.random.default_rng(0).random((20, 18, 5)) * 250).astype(dtype)
    stored = image if planar == "contig" else image.transpose(2, 0, 1)
    data = tiff(stored, photometric="minisblack", planarconfig=planar, compression=compression)
    found = decode(data).pixels
    np.testing.assert_array_equal(found, image)
    assert found.dtype == dtype


def test_tiff_with_infrared_is_not_taken_for_alpha():
    image = picture(20, 20, 4)
    data = tiff(image, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(decode(data).pixels, image)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_tiff_of_deep_grey(order, dtype):
    image = (np.random.default_rng(0).random((9, 7)) * 60_000).astype(dtype)
    found = decode(tiff(image, byteorder=order)).pixels
    np.testing.assert_array_equal(found[..., 0], image)
    assert found.dtype.isnative


def test_tiff_with_white_at_zero_is_turned_bright():
    image = np.random.default_rng(0).integers(0, 65_536, (9, 7), dtype=np.uint16)
    found = decode(tiff(image, photometric="miniswhite")).pixels
    np.testing.assert_array_equal(found[..., 0], 65_535 - image)


def test_tiff_of_deep_colour_keeps_its_planes():
    image = np.random.default_rng(0).integers(0, 65_536, (9, 7, 3), dtype=np.uint16)
    planar = tiff(image.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(decode(planar).pixels, image)


def test_microscope_pages_are_channels_and_time_is_not():
    stack = np.random.default_rng(0).integers(0, 65_536, (5, 20, 18), dtype=np.uint16)
    channels = decode(tiff(stack, imagej=True, metadata={"axes": "CYX"}))
    np.testing.assert_array_equal(channels.pixels, stack.transpose(1, 2, 0))
    times = decode(tiff(stack, imagej=True, metadata={"axes": "TYX"}))
    np.testing.assert_array_equal(times.pixels[..., 0], stack[0])
    assert "first page" in times.note


def test_jpeg_in_tiff():
    found = decode(saved(smooth(), "TIFF", compression="jpeg", quality=95)).pixels
    assert np.abs(found.astype(int) - smooth()).max() <= 16


def test_16_bit_lzw_tiff_is_read_by_pillow():
    image = np.random.default_rng(0).integers(0, 65_536, (9, 7), dtype=np.uint16)
    data = saved(Image.fromarray(image), "TIFF", compression="tiff_lzw")
    np.testing.assert_array_equal(decode(data).pixels[..., 0], image)


def test_tiff_compression_that_needs_a_package_says_which():
    image = np.zeros((9, 7, 3), np.uint16)
    data = bytearray(tiff(image, photometric="rgb", compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tag = file.pages.first.tags["Compression"]
        data[tag.valueoffset : tag.valueoffset + 2] = struct.pack("<H", 5)  # LZW
    if "imagecodecs" in sys.modules:
        pytest.skip("imagecodecs reads it")
    with pytest.raises(Refused, match=r"LZW.*pip install imagecodecs"):
        decode(bytes(data))


def test_numpy_file_and_layouts():
    image = picture(20, 24)
    for stored in (image, image.transpose(2, 0, 1), np.asfortranarray(image)):
        np.testing.assert_array_equal(decode(npy(stored)).pixels, image)
    deep = np.arange(480, dtype=">u2").reshape(20, 24)
    found = decode(npy(deep)).pixels
    np.testing.assert_array_equal(found[..., 0], deep)
    assert found.dtype == np.uint16


@pytest.mark.parametrize("dtype", ["int16", "int32", "float64", "float16", "int64"])
def test_unusual_numbers_become_float(dtype):
    image = np.arange(-50, 50).reshape(10, 10).astype(dtype)
    found = as_image(image)
    assert found.pixels.dtype == np.float32
    np.testing.assert_array_equal(found.pixels[..., 0], image)
    assert found.note == f"{dtype} stored as float32"


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(5), "not an image"),
        (np.zeros((2, 3, 4, 5)), "not an image"),
        (np.zeros((0, 5, 3)), "not an image"),
        (np.full((4, 4), np.nan, np.float32), "not finite"),
        (np.full((4, 4), 1e300), "not finite"),
        (np.zeros((4, 4), complex), "unusable type"),
        (np.zeros((4, 4), "U3"), "unusable type"),
    ],
)
def test_arrays_that_are_no_images(array, reason):
    with pytest.raises(Refused, match=reason):
        as_image(array)


def test_dicom():
    deep = np.random.default_rng(0).integers(0, 4096, (9, 7), dtype=np.uint16)
    np.testing.assert_array_equal(decode(dicom(deep)).pixels[..., 0], deep)


def test_dicom_monochrome1_is_turned_bright_by_its_bits():
    deep = np.random.default_rng(0).integers(0, 4096, (9, 7), dtype=np.uint16)
    data = dicom(deep, PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(decode(data).pixels[..., 0], 4095 - deep)


def test_dicom_rescaled_to_hounsfield_units():
    stored = np.random.default_rng(0).integers(-1000, 3000, (9, 7), dtype=np.int16)
    found = decode(dicom(stored, RescaleSlope="2", RescaleIntercept="-1024")).pixels
    np.testing.assert_array_equal(found[..., 0], stored * 2.0 - 1024)
    assert found.dtype == np.float32


def test_dicom_of_several_frames():
    frames = np.random.default_rng(0).integers(0, 4096, (3, 9, 7), dtype=np.uint16)
    found = decode(dicom(frames, NumberOfFrames=3))
    np.testing.assert_array_equal(found.pixels[..., 0], frames[0])
    assert found.note == "first frame of several"

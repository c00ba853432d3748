"""Golden pixels of every kind of image, and the refusal of what is none or is damaged."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from unlabel.data.decode import Refused, as_image, decode


def picture(height=8, width=8, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height=48, width=64):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 2], 2).clip(0, 255).astype("u1")


def saved(image, form, **options):
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(
        buffer, form, **options
    )
    return buffer.getvalue()


def tiff(array, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


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


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


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


def dicom(pixels, **tags):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID = meta.MediaStorageSOPClassUID
    file.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    file.Rows, file.Columns = pixels.shape[-2:]
    file.SamplesPerPixel = 1
    file.PhotometricInterpretation = "MONOCHROME2"
    file.BitsAllocated = file.BitsStored = pixels.dtype.itemsize * 8
    file.HighBit = file.BitsStored - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    file.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(file, name, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, file, enforce_file_format=True)
    return buffer.getvalue()


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


# Damage ---------------------------------------------------------------------------------------

WHOLE = {
    "jpeg": lambda: saved(smooth(), "JPEG"),
    "progressive": lambda: saved(smooth(), "JPEG", progressive=True),
    "cmyk": lambda: saved(Image.fromarray(smooth()).convert("CMYK"), "JPEG"),
    "png": lambda: saved(picture(48, 64), "PNG"),
    "deep png": lambda: saved(Image.fromarray(picture(48, 64, 1).astype("u2") * 257), "PNG"),
    "webp": lambda: saved(picture(48, 64), "WEBP"),
    "webp lossless": lambda: saved(picture(48, 64), "WEBP", lossless=True),
    "bmp": lambda: saved(picture(48, 64), "BMP"),
    "gif": lambda: saved(picture(48, 64, 1), "GIF"),
    "tiff": lambda: saved(picture(48, 64), "TIFF"),
    "deep tiff": lambda: tiff(picture(48, 64, 1).astype("u2")),
    "zlib tiff": lambda: tiff(
        picture(48, 64, 5), photometric="minisblack", planarconfig="contig", compression="zlib"
    ),
    "npy": lambda: npy(picture(48, 64)),
    "dicom": lambda: dicom(picture(48, 64, 1).astype("u2")),
}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("share", [0, 0.01, 0.1, 0.5, 0.9, 0.99])
def test_cut_files_are_refused(kind, share):
    data = WHOLE[kind]()
    decode(data)
    if kind == "gif" and share == 0.99:
        share = 0.95  # the last bytes of a GIF only say that it ends
    with pytest.raises(Refused) as refusal:
        decode(data[: int(len(data) * share)])
    assert 3 < len(str(refusal.value)) < 130


@pytest.mark.parametrize("kind", WHOLE)
def test_changed_bytes_never_raise_anything_but_a_refusal(kind):
    data, random = WHOLE[kind](), np.random.default_rng(7)
    for _ in range(60):
        changed = bytearray(data)
        where = random.integers(min(len(data), 200) if random.random() < 0.5 else len(data))
        changed[where] ^= random.integers(1, 256)
        try:
            found = decode(bytes(changed), megapixels=4)
        except Refused:
            continue
        assert found.pixels.ndim == 3
        assert found.pixels.dtype in ("uint8", "uint16", "float32")


def test_random_bytes_and_texts_are_no_images():
    random = np.random.default_rng(0)
    for data in [random.bytes(n) for n in (1, 10, 1000)] + [b"<html>", b"%PDF-1.4", b"\0" * 300]:
        with pytest.raises(Refused, match="not an image"):
            decode(data)
    with pytest.raises(Refused, match="empty"):
        decode(b"")


def test_postscript_is_never_run():
    with pytest.raises(Refused, match="not an image"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(evil) run\n%%EOF")


def test_kept_jpegs_decode_without_complaint():
    """The store decodes strictly; what it keeps must pass, whatever a changed byte did."""
    import simplejpeg

    data, random, kept = saved(smooth(), "JPEG"), np.random.default_rng(3), 0
    for _ in range(300):
        changed = bytearray(data)
        changed[random.integers(len(data))] ^= 1 << random.integers(8)
        try:
            found = decode(bytes(changed))
        except Refused:
            continue
        if found.jpeg is not None:
            kept += 1
            np.testing.assert_array_equal(simplejpeg.decode_jpeg(found.jpeg), found.pixels)
    assert kept > 50


def test_stray_bytes_are_named_and_not_kept():
    data = saved(smooth(), "JPEG")
    found = decode(data[:-2] + b"\x12\x34\x56" + data[-2:])
    assert "stray bytes" in found.note
    assert found.jpeg is None


# Bombs ----------------------------------------------------------------------------------------


def bombs():
    zeros = zlib.compress(b"\0" * 1_000_000)
    size = struct.pack(">IIBBBBB", 13_000, 13_000, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zeros)
    jpeg = bytearray(saved(picture(16, 16), "JPEG"))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = struct.pack(">HH", 65_535, 65_535)
    lying = b"\x93NUMPY\x01\0\x76\0" + (
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (100000, 100000), }".ljust(117) + b"\n"
    )
    small = tiff(picture(16, 16, 5).astype("u2"), photometric="minisblack")
    wide = bytearray(small)
    with tifffile.TiffFile(io.BytesIO(small)) as file:
        for name in ("ImageWidth", "ImageLength"):
            tag = file.pages.first.tags[name]
            wide[tag.valueoffset : tag.valueoffset + 2] = struct.pack("<H", 60_000)
    gif = bytearray(saved(picture(8, 8, 1), "GIF"))
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    return {
        "png": png + chunk(b"IEND", b""),
        "jpeg": bytes(jpeg),
        "npy": lying,
        "tiff": bytes(wide),
        "gif": bytes(gif),
        "bmp": saved(picture(), "BMP")[:18] + struct.pack("<ii", 60_000, 60_000) + b"\0" * 100,
        "webp": b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\x3f\xff\xff\x3f" + b"\0" * 30,
        "tiff 8000": bytes(wide).replace(struct.pack("<H", 60_000), struct.pack("<H", 5_000)),
        "text": b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
        + chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 200_000_000))
        + chunk(b"IEND", b""),
    }


MEASURE = """
import resource, sys
from unlabel.data.decode import Refused, decode
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    before = peak()
    try:
        decode(open(path, "rb").read())
        print("decoded", end=" ")
    except Refused:
        print("refused", end=" ")
    print((peak() - before) // 1024)
"""


def test_bombs_are_refused_with_bounded_memory(tmp_path):
    files = []
    for name, data in bombs().items():
        with pytest.raises(Refused):
            decode(data)
        files.append(tmp_path / f"{name}.bin")
        files[-1].write_bytes(data)
    command = [sys.executable, "-c", MEASURE, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    outcomes = [line.split() for line in done.stdout.splitlines()]
    assert [outcome for outcome, _ in outcomes] == ["refused"] * len(files)
    assert max(int(grown) for _, grown in outcomes) < 300


def test_size_limit_is_the_users():
    data = saved(Image.new("RGB", (2000, 1000)), "PNG")
    assert decode(data, megapixels=2).pixels.shape == (1000, 2000, 3)
    with pytest.raises(Refused, match=r"too large: 2000 x 1000 pixels, over 1\.5 megapixels"):
        decode(data, megapixels=1.5)


def test_many_frames_take_no_time():
    frames = [Image.new("L", (8, 8), i % 255) for i in range(2000)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data).note == "first frame of several"

"""What is cut, changed, no image or a bomb is refused, and in bounded memory."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tifffile
from image_files import chunk, dicom, npy, picture, saved, smooth, tiff
from PIL import Image

from unlabel.data.decode import Refused, decode

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

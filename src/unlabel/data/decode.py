"""Bytes in, upright pixels out, or a refusal with its reason: the only caller of image decoders.

Photographs become RGB of 8 bits. Scientific images keep their channels and their type: 16-bit PNG,
TIFF of several channels or more than 8 bits, NumPy arrays and DICOM.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "MPO")
KINDS = {np.dtype(t) for t in ("uint8", "uint16", "float32")}
MEGAPIXELS = 64.0
"""Largest image that is decoded, in millions of pixels, unless told otherwise."""
LONGEST = 65_535
"""Longest side in pixels."""

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BACKGROUND = 255  # transparent pixels show white, as a page would


class Refused(Exception):
    """An image that cannot be used; the message is the reason, without the image's name."""


@dataclass(frozen=True)
class Decoded:
    """An image as it will be used.

    Attributes:
        pixels: (H, W, C), uint8, uint16 or float32.
        note: what was changed or left out in decoding, or "".
        jpeg: the file itself, where it is a JPEG that needs no turning or conversion.
    """

    pixels: np.ndarray
    note: str = ""
    jpeg: bytes | None = None


def decode(data: bytes, megapixels: float = MEGAPIXELS) -> Decoded:
    """Decode one image.

    Args:
        data: the file's content.
        megapixels: largest size, checked in the header before any pixel is decoded.

    Raises:
        Refused: empty, no image, truncated, damaged, too large, or of an unusable kind.
    """
    if not data:
        raise Refused("empty file")
    try:
        if data.startswith(b"\x93NUMPY"):
            return _numpy(data, megapixels)
        if data[128:132] == b"DICM":
            return _dicom(data, megapixels)
        if data.startswith(_TIFF) and (scientific := _tiff(data, megapixels)):
            return scientific
        return _photograph(data, megapixels)
    except Refused:
        raise
    except UnidentifiedImageError:
        raise Refused("not an image") from None
    except Image.DecompressionBombError:
        raise Refused(f"too large: over {megapixels:g} megapixels") from None
    except (MemoryError, RecursionError) as error:
        raise Refused(f"unreadable: {type(error).__name__}") from None
    except Exception as error:  # decoders raise errors of every kind on hostile bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        kind = "truncated" if "truncated" in reason.lower() else "damaged"
        raise Refused(f"{kind}: {reason[:100]}") from None


def as_image(array: np.ndarray, megapixels: float = MEGAPIXELS) -> Decoded:
    """Pixels that come as an array: (H, W) or (H, W, C), or (C, H, W) with few channels first.

    Raises:
        Refused: not an image's shape or type, too large, or not finite.
    """
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or 0 in array.shape:
        raise Refused(f"not an image: an array of shape {array.shape}")
    note = ""
    if array.shape[0] <= 16 < array.shape[2]:
        array, note = array.transpose(1, 2, 0), "channels moved last"
    _check_size(array.shape[1], array.shape[0], megapixels)
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.dtype in (np.int8, np.int16, np.int32, np.uint32, np.int64, np.float16, np.float64):
        array, note = array.astype(np.float32), f"{array.dtype} stored as float32"
    if array.dtype not in KINDS:
        raise Refused(f"pixels of type {array.dtype}")
    if array.dtype == np.float32 and not np.isfinite(array).all():
        raise Refused("pixels that are not finite")
    if array.dtype == np.uint8 and array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return Decoded(np.ascontiguousarray(array), note)


def _check_size(width: int, height: int, megapixels: float) -> None:
    if width < 1 or height < 1:
        raise Refused("not an image: no pixels")
    if width * height > megapixels * 1e6 or max(width, height) > LONGEST:
        raise Refused(f"too large: {width} x {height} pixels, over {megapixels:g} megapixels")


def _photograph(data: bytes, megapixels: float) -> Decoded:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size, megapixels)
            frames = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
            image.load()
            if image.format == "PNG" and data[24] == 16:
                return _deep_png(data)
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                return as_image(np.asarray(image), megapixels)
            upright = ImageOps.exif_transpose(image)
            note = "first frame of several" if frames > 1 else ""
            pixels = np.asarray(_rgb(upright))
            plain = image.format == "JPEG" and image.mode in ("RGB", "L")
            turned = upright.size != image.size or image.getexif().get(0x0112, 1) != 1
            return Decoded(pixels, note, jpeg=data if plain and not turned else None)


def _rgb(image: Image.Image) -> Image.Image:
    """RGB of 8 bits; what is transparent becomes white."""
    if image.mode == "RGB":
        return image
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (_BACKGROUND,) * 4)
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


def _deep_png(data: bytes) -> Decoded:
    """A 16-bit PNG as it is; Pillow would cut it to 8 bits or saturate it."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise Refused("damaged: a 16-bit PNG that cannot be decoded")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] in (2, 4):
        colour, alpha = pixels[..., :-1].astype(np.float64), pixels[..., -1:] / 65_535
        pixels = np.rint(colour * alpha + 65_535 * (1 - alpha)).astype(np.uint16)
    if pixels.shape[2] == 3:
        pixels = pixels[..., ::-1]
    return Decoded(np.ascontiguousarray(pixels), "16 bits kept")


def _tiff(data: bytes, megapixels: float) -> Decoded | None:
    """A TIFF of several channels or more than 8 bits; ``None`` where Pillow reads it better."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        _check_size(page.imagewidth, page.imagelength, megapixels)
        samples = page.samplesperpixel
        if page.dtype == np.uint8 and samples in (1, 3, 4) and page.photometric != 5:
            return None
        if page.photometric == 5:  # CMYK
            return None
        pixels = page.asarray()
        if pixels.ndim == 3 and page.planarconfig == 2:
            pixels = pixels.transpose(1, 2, 0)
        found = as_image(pixels, megapixels)
        note = "first page of several" if len(file.pages) > 1 else found.note
        return Decoded(found.pixels, note)


def _numpy(data: bytes, megapixels: float) -> Decoded:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
    read = read or np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject or len(shape) not in (2, 3):
        raise Refused(f"not an image: an array of shape {shape}, {dtype}")
    if np.prod(shape, dtype=np.float64) * dtype.itemsize > len(data):
        raise Refused("truncated: fewer bytes than its header says")
    return as_image(np.load(io.BytesIO(data), allow_pickle=False), megapixels)


def _dicom(data: bytes, megapixels: float) -> Decoded:
    try:
        import pydicom
    except ImportError:
        raise Refused("DICOM: pip install 'unlabel[dicom]' reads it") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = pydicom.dcmread(io.BytesIO(data))
        _check_size(int(file.Columns), int(file.Rows), megapixels)
        pixels = file.pixel_array
    frames = int(getattr(file, "NumberOfFrames", 1) or 1)
    if frames > 1:
        pixels = pixels[0]
    slope = float(getattr(file, "RescaleSlope", 1) or 1)
    offset = float(getattr(file, "RescaleIntercept", 0) or 0)
    if (slope, offset) != (1.0, 0.0):
        pixels = pixels.astype(np.float32) * np.float32(slope) + np.float32(offset)
    elif pixels.dtype == np.int16:
        pixels = pixels.astype(np.float32)
    if file.PhotometricInterpretation == "MONOCHROME1":  # small values are bright
        pixels = pixels.max() - pixels
    found = as_image(pixels, megapixels)
    return Decoded(found.pixels, "first frame of several" if frames > 1 else found.note)

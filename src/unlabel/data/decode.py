"""Bytes in, upright pixels out, or a refusal with its reason: where all decoding begins.

Photographs become RGB of 8 bits. Scientific images keep their channels and their type: 16-bit PNG
here, TIFF of several channels or more than 8 bits, NumPy arrays and DICOM in ``scientific``.
"""

from __future__ import annotations

import io
import warnings

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from unlabel.data.pixels import MEGAPIXELS, Decoded, Refused, as_image, check_size, turned
from unlabel.data.scientific import read_dicom, read_numpy, read_tiff

__all__ = ["MEGAPIXELS", "Decoded", "Refused", "as_image", "decode"]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BACKGROUND = 255  # transparent pixels show white, as a page would
_ORIENTATION = 0x0112


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
            return read_numpy(data, megapixels)
        if data[128:132] == b"DICM":
            return read_dicom(data, megapixels)
        if data.startswith(_TIFF) and (scientific := read_tiff(data, megapixels)):
            return scientific
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
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


def _photograph(data: bytes, megapixels: float) -> Decoded:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        check_size(*image.size, megapixels)
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            return _jpeg(data, _orientation(image))
        note = "first frame of several" if getattr(image, "is_animated", False) else ""
        image.load()
        orientation = _orientation(image)
        if image.format == "PNG" and data[24] == 16:
            found = _deep_png(data)
        elif image.mode in ("I", "F") or image.mode.startswith("I;16"):
            found = as_image(np.asarray(image), megapixels)
        else:
            found = Decoded(np.asarray(_rgb(image)))
        return Decoded(turned(found.pixels, orientation), note or found.note)


def _jpeg(data: bytes, orientation: int) -> Decoded:
    """A JPEG in colour or grey, decoded as the store does, which takes no damage silently."""
    note = ""
    try:
        pixels = simplejpeg.decode_jpeg(data)
    except ValueError as error:
        if "extraneous bytes" not in str(error):
            raise
        note = "JPEG with stray bytes, which may show"
        pixels = simplejpeg.decode_jpeg(data, strict=False)
    whole = orientation == 1 and not note
    return Decoded(turned(pixels, orientation), note, jpeg=data if whole else None)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where it is missing or cannot be read."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF says nothing about the pixels
        return 1
    return found if found in range(1, 9) else 1


def _rgb(image: Image.Image) -> Image.Image:
    """RGB of 8 bits; what is transparent becomes white."""
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
    if pixels.shape[2] == 4:
        colour, alpha = pixels[..., :3].astype(np.float64), pixels[..., 3:] / 65_535
        pixels = np.rint(colour * alpha + 65_535 * (1 - alpha)).astype(np.uint16)
        if data[25] == 4:  # grey with alpha, which comes as colour
            pixels = pixels[..., :1]
    return Decoded(np.ascontiguousarray(pixels[..., ::-1]), "16 bits kept")

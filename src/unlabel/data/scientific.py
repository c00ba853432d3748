"""Scientific images: TIFF of many channels or deep pixels, NumPy arrays, DICOM."""

from __future__ import annotations

import io
import logging
import warnings

import numpy as np
import tifffile

from unlabel.data.pixels import BANDS, Decoded, Refused, as_image, check_size, turned

_ORIENTATION = 274

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its complaints become reasons here


def read_tiff(data: bytes, megapixels: float) -> Decoded | None:
    """A TIFF of several channels or more than 8 bits; ``None`` where Pillow reads it better."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        check_size(page.imagewidth, page.imagelength, megapixels, page.samplesperpixel)
        channels = _channel_pages(file)
        if channels == 1 and _for_pillow(page):
            return None
        pages = [file.pages[i].aspage() for i in range(channels)]
        planes = [_page(one, len(data)) for one in pages]
        pixels = planes[0] if channels == 1 else np.stack(planes, axis=2)
        found = as_image(pixels, megapixels)
        note = found.note if channels > 1 or len(file.pages) == 1 else "first page of several"
        tag = page.tags.get(_ORIENTATION)
        return Decoded(turned(found.pixels, int(tag.value) if tag else 1), note)


def _for_pillow(page: tifffile.TiffPage) -> bool:
    """Photographs, and what tifffile has no decompressor for and Pillow has."""
    alpha = page.samplesperpixel == 4 and page.extrasamples[:1] in ((1,), (2,))
    cmyk = page.photometric == tifffile.PHOTOMETRIC.SEPARATED and page.samplesperpixel == 4
    if page.bitspersample <= 8 and (page.samplesperpixel in (1, 3) or alpha or cmyk):
        return True
    return page.compression == tifffile.COMPRESSION.LZW and page.samplesperpixel == 1


def _channel_pages(file: tifffile.TiffFile) -> int:
    """How many pages are the channels of one image: microscopes write a page a channel."""
    series = file.series[0]
    if series.axes not in ("CYX", "QYX") or series.shape[0] > BANDS:
        return 1
    return min(series.shape[0], len(file.pages))


def _page(page: tifffile.TiffPage, length: int) -> np.ndarray:
    """One page's pixels, (H, W) or (H, W, C), when the file holds all of them."""
    ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if not ends or max(ends) > length:
        raise Refused("truncated: pixels are missing")
    if page.compression == 1 and sum(page.databytecounts) < page.nbytes:
        raise Refused("truncated: fewer bytes than its header says")
    try:
        pixels = page.asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        name = tifffile.COMPRESSION(page.compression).name
        raise Refused(f"TIFF compressed by {name}: pip install imagecodecs reads it") from None
    if pixels.ndim == 3 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
        pixels = pixels.transpose(1, 2, 0)
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype).max - pixels
    return pixels


def read_numpy(data: bytes, megapixels: float) -> Decoded:
    """One image in NumPy's own format; never what is pickled."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_2_0
    if version == (1, 0):
        read = np.lib.format.read_array_header_1_0
    shape, _, dtype = read(stream)
    if dtype.hasobject or len(shape) not in (2, 3):
        raise Refused(f"not an image: an array of shape {shape}, {dtype}")
    if np.prod(shape, dtype=np.float64) * dtype.itemsize > len(data):
        raise Refused("truncated: fewer bytes than its header says")
    return as_image(np.load(io.BytesIO(data), allow_pickle=False), megapixels)


def read_dicom(data: bytes, megapixels: float) -> Decoded:
    """The first frame, in the units that its rescale slope and intercept give, bright up."""
    try:
        import pydicom
        from pydicom.pixels import pixel_array
    except ImportError:
        raise Refused("DICOM: pip install 'unlabel[dicom]' reads it") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = pydicom.dcmread(io.BytesIO(data))
        check_size(int(file.Columns), int(file.Rows), megapixels)
        pixels = pixel_array(file, index=0)
    if file.PhotometricInterpretation == "MONOCHROME1":  # small values are bright
        largest = -1 if file.PixelRepresentation else (1 << int(file.BitsStored)) - 1
        pixels = (largest - pixels.astype(np.int64)).astype(pixels.dtype)
    slope = float(getattr(file, "RescaleSlope", 1) or 1)
    offset = float(getattr(file, "RescaleIntercept", 0) or 0)
    if (slope, offset) != (1.0, 0.0):
        pixels = pixels.astype(np.float32) * np.float32(slope) + np.float32(offset)
    found = as_image(pixels, megapixels)
    frames = int(getattr(file, "NumberOfFrames", 1) or 1)
    return Decoded(found.pixels, "first frame of several" if frames > 1 else found.note)

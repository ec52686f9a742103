"""One image file -> an array (H, W, channels) of raw pixels, and resizing it.

The content of a file decides how it is read; only the suffixes in DECODERS are taken at their word. EXIF orientation is
not applied, as in the competitions' own baselines: the pixels stay where the host put them.
"""

import io
import logging
import os
import stat
import warnings
from itertools import islice

import cv2
import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from src.errors import UserError, first_line

MAX_PIXELS, MAX_BYTES = 200_000_000, 1_000_000_000
# What Pillow may take a file for: all that competitions have. Among its others is EPS, a program that it would run.
IMAGE_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "PPM")

cv2.setNumThreads(0)  # the loader's processes are the parallelism; threads in each would fight for the same cores
# A broken file gets one line, ours. OpenCV 4 has the function at its top, OpenCV 5 in a module; 0 is silent.
getattr(cv2.utils, "logging", cv2).setLogLevel(0)
Image.MAX_IMAGE_PIXELS = None  # Pillow warns at 89 megapixels; MAX_PIXELS takes its place
for _library in ("PIL", "pydicom"):  # they warn of each tag that is not as it should be: thousands of lines
    logging.getLogger(_library).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=rf"{_library}\.")


def decode_image(path, channels, target_size=None):
    """Return the pixels of one file as (H, W, channels): uint8, or float32 for .npy arrays of another type than uint8.

    Channels are 1 of grey and 3 of RGB (grey repeated); other numbers need an array, an RGBA image or a TIFF of grey
    pages. A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, but not below target_size, (height, width).
    Transparency is dropped; 16-bit pixels keep their high byte (colour TIFF: rounded). UserError is raised for a file
    that cannot be read or decoded, has other channels, holds nan, is over 200 megapixels or 1 GB.
    """
    return decode_bytes(path, read_file(path), channels, target_size)


def decode_bytes(path, data, channels, target_size=None):
    """As `decode_image`, of what `read_file` has read."""
    suffix = os.path.splitext(path)[1].lower()
    try:
        with np.errstate(all="ignore"):  # pixels that are not finite are refused in the end
            if suffix in DECODERS:
                pixels = DECODERS[suffix](path, data, channels)
            elif data[128:132] == b"DICM":
                pixels = decode_dicom(path, data, channels)
            else:
                pixels = _decode_by_content(path, data, channels, target_size)
            return _fit_channels(path, pixels, channels)
    except UserError:
        raise
    except Exception as error:  # on a broken file the decoders raise whatever they run into
        says_nothing = not data or isinstance(error, (cv2.error, UnidentifiedImageError, MemoryError))
        reason = "" if says_nothing else f": {first_line(error)[:300]}"
        raise UserError(f"{path}: cannot be decoded as an image ({len(data)} bytes{reason})") from None


def resize_image(image, size):
    """Return an image (H, W, C) at `size` (height, width): by area when shrinking, else linear; as it is when equal."""
    height, width, channels = image.shape
    if (height, width) == tuple(size):
        return image
    method = cv2.INTER_AREA if height >= size[0] and width >= size[1] else cv2.INTER_LINEAR
    fours = [image[..., first : first + 4] for first in range(0, channels, 4)]  # INTER_AREA takes no more at once
    resized = [cv2.resize(four, size[::-1], interpolation=method).reshape(*size, -1) for four in fours]
    return resized[0] if len(resized) == 1 else np.concatenate(resized, axis=2)


def read_file(path):
    """Return the bytes of a regular file of at most 1 GB; a pipe or a device might never end."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path}: cannot be read (not a regular file)")
        if found.st_size > MAX_BYTES:
            raise UserError(f"{path}: is over {MAX_BYTES // 10**9} GB; scale it down beforehand")
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def check_size(path, height, width):
    """Refuse an image over 200 megapixels, before its pixels are decoded."""
    if height * width > MAX_PIXELS:
        raise UserError(f"{path}: {width}x{height} is over {MAX_PIXELS // 10**6} megapixels; scale it down beforehand")


def _decode_by_content(path, data, channels, target_size):
    page = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)  # reads no pixels: 15 microseconds
    width, height = page.size
    check_size(path, height, width)
    if channels not in (1, 3):  # an RGBA image, or a TIFF with one grey page for each channel
        num_pages = sum(1 for _ in islice(ImageSequence.Iterator(page), channels + 1))  # counting all may take minutes
        if num_pages != channels:
            page.seek(0)
            return np.asarray(page)
        pages = []
        for one in ImageSequence.Iterator(page):
            check_size(path, one.height, one.width)
            pages.append(_fit_channels(path, _read_page(path, one), 1))
        return np.concatenate(pages, axis=2)
    # OpenCV is 1.4 times faster on JPEG and 4 times on small TIFF; but it prints libpng's warnings, and it multiplies
    # a TIFF's colours by their transparency.
    is_jpeg = page.format in ("JPEG", "MPO")
    if not is_jpeg and (page.format == "PNG" or page.mode not in ("L", "RGB")):
        return _read_page(path, page)
    kind, flag = ("COLOR", cv2.IMREAD_COLOR) if channels == 3 else ("GRAYSCALE", cv2.IMREAD_GRAYSCALE)
    for factor in (8, 4, 2) if is_jpeg and target_size is not None else ():
        if -(-height // factor) >= target_size[0] and -(-width // factor) >= target_size[1]:
            flag = getattr(cv2, f"IMREAD_REDUCED_{kind}_{factor}")
            break
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise cv2.error("truncated or corrupt")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels) if channels == 3 else pixels


def _read_page(path, page):
    """Return the open page as (H, W) or (H, W, 3) uint8."""
    if page.mode.startswith("I;16") or (page.mode == "I" and page.format == "PNG"):  # I: 16-bit PNG before Pillow 11
        return (np.asarray(page) >> 8).astype(np.uint8)
    if page.mode in ("I", "F"):
        raise UserError(f"{path}: has 32-bit pixels, whose range no image format fixes; save it as .npy")
    return np.asarray(page.convert("L" if page.mode in ("1", "L", "LA") else "RGB"))


def _fit_channels(path, pixels, channels):
    """Return (H, W, channels) of an image that is grey, RGB, or has the wanted channels already."""
    pixels = np.ascontiguousarray(pixels).reshape(*pixels.shape[:2], -1)
    found = pixels.shape[2]
    if (found, channels) == (1, 3):
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    if (found, channels) == (3, 1):
        return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
    _check_channels(path, found, channels)
    return pixels


def _check_channels(path, found, wanted):
    if found != wanted:
        raise UserError(f"{path}: has {found} channels, wanted are {wanted}; set competition.channels={found}")


def decode_npy(path, data, channels):
    """Two axes are one channel; of three axes the shorter of first and last is the channels, when equal the last."""
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.ndim not in (2, 3) or array.size == 0 or array.dtype.kind not in "biuf":
        raise UserError(f"{path}: an array {array.shape} of {array.dtype} is no image; an image has 2 or 3 axes")
    if array.ndim == 3 and array.shape[0] < array.shape[2]:
        array = np.moveaxis(array, 0, -1)
    check_size(path, *array.shape[:2])
    array = array.reshape(*array.shape[:2], -1)
    _check_channels(path, array.shape[2], channels)  # here, as a grey array is not made RGB
    if array.dtype != np.uint8:
        array = array.astype(np.float32)
        _check_finite(path, array)
    return array


def decode_dicom(path, data, channels):
    """Return (H, W) or (H, W, 3) uint8: modality LUT, then the first VOI table or window, else the image's own range.

    Of several frames the middle one is taken; MONOCHROME1 is inverted.
    """
    import pydicom  # here, as it takes 0.2 s that most competitions need not wait for
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, apply_windowing, pixel_array

    if b"1.2.840.10008.1.2.1.99" in data[:2000]:  # which pydicom unpacks whole, whatever its size
        raise UserError(f"{path}: is deflated DICOM, which is not read; save it with another transfer syntax")
    dicom = pydicom.dcmread(io.BytesIO(data))
    check_size(path, dicom.Rows, dicom.Columns)
    pixels = pixel_array(dicom, index=int(dicom.get("NumberOfFrames") or 1) // 2)
    if dicom.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dicom)
    if pixels.ndim == 3:
        return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    pixels = apply_modality_lut(pixels, dicom)
    if dicom.get("VOILUTSequence"):
        low, high = 0, 2 ** dicom.VOILUTSequence[0].LUTDescriptor[2] - 1
        pixels = apply_voi(np.rint(pixels).astype(np.int64), dicom)
    elif None not in (dicom.get("WindowCenter"), dicom.get("WindowWidth")):
        low, high = apply_windowing(np.array([-1e6, 1e6]), dicom)  # what lies far outside becomes the range's ends
        pixels = apply_windowing(pixels, dicom)
    else:
        low, high = float(pixels.min()), float(pixels.max())
    scaled = (pixels.astype(np.float64) - low) * (255 / max(high - low, 1e-9))
    _check_finite(path, scaled)
    pixels = np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled).astype(np.uint8)
    return 255 - pixels if dicom.PhotometricInterpretation == "MONOCHROME1" else pixels


def _check_finite(path, array):
    if not np.isfinite(array).all():
        raise UserError(f"{path}: {np.sum(~np.isfinite(array))} of {array.size} values are nan or infinite")


# suffix -> function(path, data, channels) that returns uint8 or float32 pixels, (H, W) or (H, W, C)
DECODERS = {".npy": decode_npy, ".dcm": decode_dicom, ".dicom": decode_dicom}

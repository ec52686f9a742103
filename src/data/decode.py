"""One image file -> an array (H, W, channels) of raw pixels, and resizing it.

The idea to know: the content of a file decides how it is read, not its name; only .npy and .dcm are taken at their
word. EXIF orientation is not applied, as in the competitions' own baselines: the pixels stay where the host put them.
"""

import io
import logging
import os
import stat
import warnings

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from src.errors import UserError

MAX_PIXELS = 200_000_000
MAX_BYTES = 1_000_000_000

# What Pillow may take a file for: all that competitions have. Among its others is EPS, a program that it would run.
PICTURE_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "PPM")

_DEFLATED = b"1.2.840.10008.1.2.1.99"  # DICOM's transfer syntax that pydicom unpacks whole, whatever its size

cv2.setNumThreads(0)  # the loader's processes are the parallelism; threads in each would fight for the same cores
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # a broken file is told in our one line
Image.MAX_IMAGE_PIXELS = None  # Pillow warns at 89 megapixels; MAX_PIXELS takes its place
for _library in ("PIL", "pydicom"):  # they warn of each tag that is not as it should be: thousands of lines
    logging.getLogger(_library).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=rf"{_library}\.")


def decode_image(path, channels, target_size=None):
    """Return the pixels of one file as (H, W, channels): uint8, or float32 for .npy arrays of another type than uint8.

    Pictures (JPEG, PNG, TIFF, BMP, WEBP): transparency is dropped; 16-bit pixels keep their high byte (colour TIFF:
    rounded). DICOM: modality LUT, then the first VOI window or table, else the picture's own minimum to maximum;
    MONOCHROME1 inverted; the middle one of several frames. .npy: two axes are one channel, of three axes the shorter
    of first and last is the channels (when equal, the last).

    Args:
        path: str.
        channels: 1 grey, 3 RGB (grey repeated); other numbers need an array, an RGBA picture or a TIFF of grey pages.
        target_size: (height, width) the picture will be resized to; a JPEG at least 2, 4 or 8 times larger is decoded
            at that part of its size, never below target_size. None: full size.

    Raises:
        UserError: the file cannot be read or decoded, has other channels, holds nan, is over 200 megapixels or 1 GB.
    """
    return decode_bytes(path, read_file(path), channels, target_size)


def decode_bytes(path, data, channels, target_size=None):
    """Return what `decode_image` does, of a file whose bytes `read_file` has returned.

    Raises:
        UserError: as `decode_image`, but for reading.
    """
    try:
        with np.errstate(all="ignore"):  # what odd numbers lead to is looked at in the end
            return _decode(path, data, channels, target_size)
    except UserError:
        raise
    except Exception as error:  # on a broken file the decoders raise whatever they run into
        says_nothing = not data or isinstance(error, (cv2.error, UnidentifiedImageError, MemoryError))
        reason = "" if says_nothing else f": {str(error).strip().partition(chr(10))[0][:300]}"
        raise UserError(f"{path}: cannot be decoded as an image ({len(data)} bytes{reason})") from None


def _decode(path, data, channels, target_size):
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".npy":
        return _read_array(path, data, channels)
    if suffix in (".dcm", ".dicom") or data[128:132] == b"DICM":
        return _fit_channels(path, _read_dicom(path, data), channels)
    return _fit_channels(path, _read_picture(path, data, channels, target_size), channels)


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
    """Return the bytes of a plain file; a pipe or a device might never end.

    Raises:
        UserError: it cannot be read, is no plain file, or is over 1 GB.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path}: cannot be read (not a plain file)")
        if found.st_size > MAX_BYTES:
            raise UserError(f"{path}: is over {MAX_BYTES // 10**9} GB; scale it down beforehand")
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _read_picture(path, data, channels, target_size):
    header = Image.open(io.BytesIO(data), formats=PICTURE_FORMATS)  # reads no pixels: 15 microseconds
    width, height = header.size
    _check_size(path, height, width)
    is_jpeg = header.format in ("JPEG", "MPO")
    if channels not in (1, 3):
        return _read_many_channels(path, header, channels)
    # OpenCV is 1.4 times faster on JPEG and 4 times on small TIFF; but it prints libpng's warnings, and it multiplies
    # a TIFF's colours by their transparency.
    if is_jpeg or (header.mode in ("L", "RGB") and header.format != "PNG"):
        flag = cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE
        if is_jpeg and target_size is not None:
            kind = "COLOR" if channels == 3 else "GRAYSCALE"
            for factor in (8, 4, 2):
                if -(-height // factor) >= target_size[0] and -(-width // factor) >= target_size[1]:
                    flag = getattr(cv2, f"IMREAD_REDUCED_{kind}_{factor}")
                    break
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is None:
            raise cv2.error("truncated or corrupt")
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels) if channels == 3 else pixels
    return _pillow_pixels(path, header)


def _pillow_pixels(path, header):
    """The open page as (H, W) or (H, W, 3) uint8."""
    if header.mode.startswith("I;16") or (
        header.mode == "I" and header.format == "PNG"
    ):  # 16-bit PNG: I before Pillow 11
        return (np.asarray(header) >> 8).astype(np.uint8)
    if header.mode in ("I", "F"):
        raise UserError(f"{path}: has 32-bit pixels, whose range no picture format fixes; save it as .npy")
    return np.asarray(header.convert("L" if header.mode in ("1", "L", "LA") else "RGB"))


def _read_many_channels(path, header, channels):
    """An RGBA picture, or a TIFF with one grey page for each channel."""
    if not _has_page(header, channels - 1) or _has_page(header, channels):
        return np.asarray(header)
    pages = []
    for page in range(channels):
        header.seek(page)
        _check_size(path, header.height, header.width)
        pages.append(_fit_channels(path, _pillow_pixels(path, header), 1))
    return np.concatenate(pages, axis=2)


def _has_page(header, number):
    """Whether a file has the page of this number, from 0; counting all pages of a long file takes minutes."""
    try:
        header.seek(number)
    except EOFError:
        return False
    finally:
        header.seek(0)
    return True


def _read_array(path, data, channels):
    array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.ndim not in (2, 3) or array.size == 0 or array.dtype.kind not in "biuf":
        raise UserError(f"{path}: an array {array.shape} of {array.dtype} is no image; an image has 2 or 3 axes")
    if array.ndim == 3 and array.shape[0] < array.shape[2]:
        array = np.moveaxis(array, 0, -1)
    _check_size(path, *array.shape[:2])
    array = array.reshape(*array.shape[:2], -1)
    if array.shape[2] != channels:
        raise _wrong_channels(path, array.shape[2], channels)
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"{path}: {np.sum(~np.isfinite(array))} of {array.size} values are nan or infinite")
    return array


def _read_dicom(path, data):
    # imported here: 0.2 s that most competitions need not wait for
    import pydicom
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, apply_windowing, pixel_array

    if _DEFLATED in data[:2000]:
        raise UserError(f"{path}: is deflated DICOM, which is not read; save it with another transfer syntax")
    dicom = pydicom.dcmread(io.BytesIO(data))
    _check_size(path, dicom.Rows, dicom.Columns)
    frames = int(dicom.get("NumberOfFrames") or 1)
    pixels = pixel_array(dicom, index=frames // 2)
    if dicom.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dicom)
    if pixels.ndim == 3:
        return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    pixels = apply_modality_lut(pixels, dicom)
    if dicom.get("VOILUTSequence"):
        pixels = apply_voi(np.rint(pixels).astype(np.int64), dicom)
        low, high = 0, 2 ** dicom.VOILUTSequence[0].LUTDescriptor[2] - 1
    elif None not in (dicom.get("WindowCenter"), dicom.get("WindowWidth")):
        pixels = apply_windowing(pixels, dicom)
        low, high = apply_windowing(np.array([-1e6, 1e6]), dicom)  # what lies far outside becomes the range's ends
    else:
        low, high = float(pixels.min()), float(pixels.max())
    scaled = pixels.astype(np.float64)
    scaled -= low
    scaled *= 255 / max(high - low, 1e-9)
    if not np.isfinite(scaled).all():
        raise UserError(f"{path}: {np.sum(~np.isfinite(scaled))} of {scaled.size} values are nan or infinite")
    pixels = np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled).astype(np.uint8)
    return 255 - pixels if dicom.PhotometricInterpretation == "MONOCHROME1" else pixels


def _fit_channels(path, pixels, channels):
    """Return (H, W, channels) of a picture that is grey, RGB, or has the wanted channels already."""
    pixels = np.ascontiguousarray(pixels).reshape(*pixels.shape[:2], -1)
    found = pixels.shape[2]
    if found == channels:
        return pixels
    if (found, channels) == (1, 3):
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    if (found, channels) == (3, 1):
        return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
    raise _wrong_channels(path, found, channels)


def _wrong_channels(path, found, wanted):
    return UserError(f"{path}: has {found} channels, wanted are {wanted}; set competition.channels={found}")


def _check_size(path, height, width):
    if height * width > MAX_PIXELS:
        raise UserError(f"{path}: {width}x{height} is over {MAX_PIXELS // 10**6} megapixels; scale it down beforehand")

"""One image file -> an array (H, W, channels) of raw pixels, and resizing it.

The content of a file decides how it is read; only the suffixes in DECODERS are taken at their word.

The orientation tag is applied in every format unless competition.exif is false: those who gave the labels saw the image
upright, as do users of cv2.imread. fastai, torchvision and timm, which read by Pillow, turn TIFF alone.
"""

import io
import logging
import os
import warnings
from functools import partial
from importlib.util import find_spec
from itertools import islice

import cv2
import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from src.competition.image_files import JOIN
from src.containers import read_file
from src.errors import UserError, first_line

MAX_PIXELS = 200_000_000
# What Pillow may take a file for: all that competitions have. Among its others is EPS, a program that it would run.
IMAGE_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "PPM")
IMAGE_FORMATS += ("AVIF",) if find_spec("PIL.AvifImagePlugin") else ()  # since Pillow 11.3

TURNS = {  # value of the orientation tag -> function(pixels as stored) that returns them upright
    1: lambda pixels: pixels, 2: np.fliplr, 3: lambda pixels: np.rot90(pixels, 2), 4: np.flipud,
    5: lambda pixels: np.swapaxes(pixels, 0, 1), 6: lambda pixels: np.rot90(pixels, 3),
    7: lambda pixels: np.rot90(np.swapaxes(pixels, 0, 1), 2), 8: np.rot90,
}  # fmt: skip

cv2.setNumThreads(0)  # the loader's processes are the parallelism; threads in each would fight for the same cores
# A broken file gets one line, ours. OpenCV 4 has the function at its top, OpenCV 5 in a module; 0 is silent.
getattr(cv2.utils, "logging", cv2).setLogLevel(0)
Image.MAX_IMAGE_PIXELS = None  # Pillow warns at 89 megapixels; MAX_PIXELS takes its place
for _library in ("PIL", "pydicom"):  # they warn of each tag that is not as it should be: thousands of lines
    logging.getLogger(_library).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=rf"{_library}\.")


def decode_image(path, competition, target_size=None):
    """Return the pixels of one file as (H, W, channels): uint8, or float32 for .npy arrays of another type than uint8.

    How is said by a config.settings.Competition. Its channels are 1 of grey and 3 of RGB (grey repeated); other numbers
    need an array, an RGBA image, a TIFF of four channels or of grey pages. Else an image is the first of several.
    Pixels of 1 and 3 channels lie on its background where they are transparent. 16-bit pixels keep the high byte of the
    competition's bits, larger ones become white; null: of all 16 (colour TIFF: rounded).
    A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, but not below target_size, (height, width). UserError is
    raised for a file that cannot be read or decoded, has other channels, holds nan, is over 200 megapixels or 1 GB.
    Several files, joined by image_files.JOIN, are one (H, W, files * channels), each at the first one's size.
    """
    files = path.split(JOIN)
    images = {file: decode_bytes(file, read_file(file), competition, target_size) for file in dict.fromkeys(files)}
    return stack_images(files, images)


def stack_images(files, images):
    """Return the images {file: (H, W, C)} of a row's files as one array (H, W, files * C)."""
    first = images[files[0]]
    if len(files) == 1:
        return first
    height, width = first.shape[:2]
    check_size(f"{files[0]} and {len(files) - 1} more", height * len(files), width)
    for file, image in images.items():
        if image.dtype != first.dtype:
            found = f"has {image.dtype} pixels, {files[0]} of its row has {first.dtype}"
            raise UserError(f"{file}: {found}; save them alike")
        images[file] = resize_image(image, (height, width))
    return np.concatenate([images[file] for file in files], axis=2)


def decode_bytes(path, data, competition, target_size=None):
    """As `decode_image`, of what `read_file` has read."""
    channels, default = competition.channels, decode_dicom if data[128:132] == b"DICM" else None
    default = decode_npy if data[:6] == b"\x93NUMPY" else default
    decode = DECODERS.get(os.path.splitext(path)[1].lower(), default)
    try:
        with np.errstate(all="ignore"):  # pixels that are not finite are refused in the end
            if decode is None:
                pixels = _decode_by_content(path, data, competition, target_size)
            else:
                pixels = decode(path, data, channels)
            return _fit_channels(path, pixels, channels)
    except UserError:
        raise
    except Exception as error:  # on a broken file the decoders raise whatever they run into
        says_nothing = not data or isinstance(error, (cv2.error, UnidentifiedImageError, MemoryError))
        reason = "" if says_nothing else f": {first_line(error)[:300]}"
        raise UserError(f"{path}: cannot be decoded as an image ({len(data)} bytes{reason})") from None


def resize_image(image, size, resize="squash"):
    """Return an image (H, W, C) at `size` (height, width): by area when shrinking, else linear; as it is when equal.

    resize: squash: each side to its length; letterbox: the whole image in the middle, black around it (of pixels that
    are not 8-bit their least value); crop: the middle, as much of it as has the proportions of `size`.
    """
    height, width, channels = image.shape
    if (height, width) == tuple(size):
        return image
    if resize == "crop":
        scale = min(height / size[0], width / size[1])
        tall, wide = (max(1, round(side * scale)) for side in size)
        top, left = (height - tall) // 2, (width - wide) // 2
        return resize_image(image[top : top + tall, left : left + wide], size)
    if resize == "letterbox":
        scale = min(size[0] / height, size[1] / width)
        tall, wide = (max(1, round(side * scale)) for side in (height, width))
        whole = np.full((*size, channels), 0 if image.dtype == np.uint8 else image.min(), image.dtype)
        top, left = (size[0] - tall) // 2, (size[1] - wide) // 2
        whole[top : top + tall, left : left + wide] = resize_image(image, (tall, wide))
        return whole
    method = cv2.INTER_AREA if height >= size[0] and width >= size[1] else cv2.INTER_LINEAR
    fours = [image[..., first : first + 4] for first in range(0, channels, 4)]  # INTER_AREA takes no more at once
    resized = [cv2.resize(four, size[::-1], interpolation=method).reshape(*size, -1) for four in fours]
    return resized[0] if len(resized) == 1 else np.concatenate(resized, axis=2)


def check_size(path, height, width):
    """Refuse an image over 200 megapixels, before its pixels are decoded."""
    if height * width > MAX_PIXELS:
        raise UserError(f"{path}: {width}x{height} is over {MAX_PIXELS // 10**6} megapixels; scale it down beforehand")


def read_orientation(page, data):
    """Return the orientation tag of an open Pillow image of these bytes, 1 to 8; 1: as stored."""
    if page.format == "PNG" and b"eXIf" not in data and b"Raw profile type" not in data:
        return 1  # else Pillow would decode the whole image in search of it
    if page.format in ("JPEG", "MPO") and "exif" not in page.info:
        return 1  # most often; the search takes as long as decoding 32 x 32 pixels
    try:
        found = page.tag_v2.get(274) if page.format == "TIFF" else page.getexif().get(274)
    except Exception:  # a broken tag does not make the pixels unreadable
        return 1
    return found if found in TURNS else 1


def _decode_by_content(path, data, competition, target_size):
    page = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)  # reads no pixels: 15 microseconds
    check_size(path, page.height, page.width)
    orientation, is_tiff = read_orientation(page, data), page.format == "TIFF"
    if competition.exif and orientation > 4 and target_size is not None:
        target_size = target_size[::-1]
    if competition.channels in (1, 3):
        pixels = _read_page(path, page, competition, data, target_size)
    else:
        pixels = _read_channels(path, page, competition, data)
    if competition.exif == is_tiff:  # Pillow and OpenCV turn TIFF, and nothing else
        return pixels
    return TURNS[{6: 8, 8: 6}.get(orientation, orientation) if is_tiff else orientation](pixels)


def _read_channels(path, page, competition, data):
    """Return (H, W, C) of an RGBA image, a TIFF of four channels, or one grey page for each channel."""
    channels = competition.channels
    num_pages = sum(1 for _ in islice(ImageSequence.Iterator(page), channels + 1))  # counting all may take minutes
    if num_pages == channels:
        pages = []
        for one in ImageSequence.Iterator(page):
            check_size(path, one.height, one.width)
            pages.append(_fit_channels(path, _read_page(path, one, competition), 1))
        return np.concatenate(pages, axis=2)
    page.seek(0)
    is_four = page.format == "TIFF" and page.mode == "RGB" and page.tag_v2.get(277) == 4  # the last is no alpha
    if is_four or (competition.bits and is_16_bit(page)):
        return _read_16_bits(data, competition.bits)
    return np.asarray(page.convert("RGBA") if channels == 4 and _has_alpha(page) else page)


def _read_page(path, page, competition, data=None, target_size=None):
    """Return an open page as (H, W) or (H, W, 3) uint8; data: the file's bytes, where the page is its first."""
    is_jpeg, is_grey = page.format in ("JPEG", "MPO"), page.mode in ("1", "L", "LA")
    is_plain = page.mode in ("L", "RGB") and page.format in ("TIFF", "BMP", "WEBP", "JPEG2000") and not _has_alpha(page)
    if page.mode.startswith("I;16") or (page.mode == "I" and page.format in ("PNG", "PPM")):
        # Pillow scales what has a range of its own to 16 bits, but for TIFF of 12
        bits = competition.bits if is_16_bit(page) else 12 if page.format == "TIFF" else 16
        pixels = _to_8_bits(np.asarray(page), bits)
        return 255 - pixels if page.format == "TIFF" and page.tag_v2.get(262) == 0 else pixels  # 0 is white
    if page.mode in ("I", "F"):
        raise UserError(f"{path}: has 32-bit or signed pixels, whose range no image format fixes; save it as .npy")
    if competition.bits and data and is_16_bit(page):
        pixels = _read_16_bits(data, competition.bits)
        if not (_has_alpha(page) and pixels.shape[2] == 4):
            return pixels[..., :3]
        page = Image.fromarray(pixels)
    elif data and (is_jpeg or is_plain):
        # OpenCV is 1.4 times faster on JPEG and 4 times on small TIFF; but it prints libpng's warnings, takes no notice
        # of the range that a PPM states, and multiplies a TIFF's colours by their transparency.
        return _read_by_opencv(data, competition.channels, (page.height, page.width), target_size if is_jpeg else None)
    if _has_alpha(page):
        page = page.convert("RGBA")
        alpha = page.getchannel("A")
        if alpha.getextrema()[1] > 0:  # 0 everywhere is a slip of who wrote it
            paper = Image.new("RGB", page.size, competition.background)
            paper.paste(page, mask=alpha)
            page = paper
    return np.asarray(page.convert("L" if is_grey else "RGB"))


def _read_by_opencv(data, channels, size, target_size):
    kind, flag = ("COLOR", cv2.IMREAD_COLOR) if channels == 3 else ("GRAYSCALE", cv2.IMREAD_GRAYSCALE)
    for factor in (8, 4, 2) if target_size is not None else ():
        if all(-(-side // factor) >= target for side, target in zip(size, target_size, strict=True)):
            flag = getattr(cv2, f"IMREAD_REDUCED_{kind}_{factor}")
            break
    pixels = decode_by_opencv(data, flag | cv2.IMREAD_IGNORE_ORIENTATION)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels) if channels == 3 else pixels


def decode_by_opencv(data, flag):
    """Return the pixels of a file's bytes as OpenCV stores them; flag: one of its IMREAD_*."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    if pixels is None:
        raise cv2.error("truncated or corrupt")
    return pixels


def _read_16_bits(data, bits):
    """Return all channels, of colours with as many bits as are stored: Pillow's would have the high byte."""
    pixels = decode_by_opencv(data, cv2.IMREAD_UNCHANGED)
    pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]] if pixels.ndim == 3 else pixels
    return pixels if pixels.dtype == np.uint8 else _to_8_bits(pixels, bits)


def _to_8_bits(pixels, bits):
    bits = bits or 16
    return (np.minimum(pixels, 2**bits - 1) >> (bits - 8)).astype(np.uint8)


def is_16_bit(page):
    """Whether an open page that is not yet loaded has 16-bit pixels, of a range that the file does not state."""
    stored = str(page.tile[0][3]) if page.tile else ""  # Pillow's raw mode is in it
    return ";16" in stored or (page.mode == "I;16" and ";12" not in stored)


def _has_alpha(page):
    return page.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in page.info


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
        if num_odd := np.sum(~np.isfinite(array)):
            raise UserError(f"{path}: {num_odd} of {array.size} values are nan or infinite")
    return array


def decode_dicom(path, data, channels):
    """As `dicom.decode_dicom`."""
    from src.data import dicom  # here, as pydicom takes 0.2 s that most competitions need not wait for

    return dicom.decode_dicom(data, partial(check_size, path))


# suffix -> function(path, data, channels) that returns uint8 or float32 pixels, (H, W) or (H, W, C)
DECODERS = {".npy": decode_npy, ".dcm": decode_dicom, ".dicom": decode_dicom}

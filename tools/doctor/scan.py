"""The scan: decodes every image once, on all cores, and keeps the numbers that all checks read. imagehash's only door.

Statistics, a thumbnail and two hashes are kept, in arrays with a row for each image: about 1.2 GB for a million images.
"""

import io
import os
from dataclasses import dataclass, fields
from functools import partial
from hashlib import blake2b

import cv2
import imagehash
import numpy as np
from PIL import Image

from src.competition.image_files import JOIN, Paths
from src.containers import read_file, stat_file
from src.data.decode import IMAGE_FORMATS, decode_bytes, read_orientation, resize_image, stack_images
from src.data.inspection import count_bits
from src.data.scan import map_images
from src.errors import UserError
from src.remote import Unreachable, is_url

THUMBNAIL = 32  # pixels a side, the size at which imagehash takes its cosine transform

_SHARP_CROP = 128  # pixels a side of the centre crop whose sharpness is measured
_ENCODED_CROP = 1024  # pixels a side of the centre crop that is encoded again


@dataclass(frozen=True)
class Scan:
    """What is known of N images; the numbers of unreadable ones are 0."""

    paths: Paths
    reasons: dict[int, str]  # row -> why it cannot be read
    num_bytes: np.ndarray  # (N,) int64, of the file
    modified: np.ndarray  # (N,) float64, seconds since 1970
    kinds: np.ndarray  # (N,) str: file format and pixels, such as "JPEG RGB"
    orientations: np.ndarray  # (N,) uint8, the tag that says how an image is turned, 1 to 8; 1: it is not
    pages: np.ndarray  # (N,) uint16, of a TIFF or an animation; 1 of other images, as of arrays and DICOM
    bits: np.ndarray  # (N,) uint8 that the largest pixel of a 16-bit image takes; 0: of other images
    is_uint8: np.ndarray  # (N,) bool: decoded as 8-bit pixels; else as float32
    heights: np.ndarray  # (N,) int32, pixels
    widths: np.ndarray  # (N,) int32, pixels
    lows: np.ndarray  # (N,) float32, the smallest raw pixel value
    highs: np.ndarray  # (N,) float32, the largest
    means: np.ndarray  # (N,) float32
    stds: np.ndarray  # (N,) float32, of each channel, then averaged: plain red has 0
    encoded: np.ndarray  # (N,) float32, bytes of the same image when it is encoded again
    sharpness: np.ndarray  # (N,) float32, mean absolute difference of neighbouring pixels in the centre
    digests: np.ndarray  # (N,) uint64, of shape and pixels: equal for the same image
    hashes: np.ndarray  # (N,) uint64, perceptual hash
    thumbnails: np.ndarray  # (N, 32, 32) uint8, grey

    def __len__(self):
        return len(self.num_bytes)

    @property
    def is_read(self):
        """(N,) bool: whether the image could be decoded."""
        return self.heights > 0


def scan_images(paths, competition):
    """Decode every image once and return their Scan.

    Args:
        paths: competition.image_files.Paths.
        competition: as in `decode.decode_image`.

    Reference: Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2, for the
    hash of 64 low frequencies; as imagehash computes it.
    """
    count = len(paths)
    reasons, kinds, columns = {}, [], _empty_columns(count)
    for row, found in enumerate(map_images(partial(_scan_image, competition=competition), paths, "scanning images")):
        reason, kind, values = found
        kinds.append(kind)
        if reason:
            reasons[row] = reason
        for name, value in values.items():
            columns[name][row] = value
    return Scan(paths, reasons, kinds=np.array(kinds, dtype=str), **columns)


def _empty_columns(count):
    types = {"num_bytes": np.int64, "modified": np.float64, "heights": np.int32, "widths": np.int32}
    types |= {"digests": np.uint64, "hashes": np.uint64, "is_uint8": bool, "orientations": np.uint8, "bits": np.uint8}
    types["pages"] = np.uint16
    names = [one.name for one in fields(Scan) if one.name not in ("paths", "reasons", "kinds", "thumbnails")]
    columns = {name: np.zeros(count, types.get(name, np.float32)) for name in names}
    return columns | {"thumbnails": np.zeros((count, THUMBNAIL, THUMBNAIL), np.uint8)}


def _scan_image(path, competition):
    """Return (why it cannot be read or "", kind, {field of Scan: value}) of one path, of several files as of one."""
    files, kind, values, images, every = path.split(JOIN), "?", {}, {}, []
    try:
        sizes, times = zip(*map(stat_file, files), strict=True)
        values = {"num_bytes": sum(sizes), "modified": 0 if is_url(path) else max(times) / 1e9}
        for file in dict.fromkeys(files):
            data = read_file(file)
            if is_url(file):  # whose size a listing may have told, if anything
                values["num_bytes"] += files.count(file) * (len(data) - stat_file(file)[0])
            kind, tags = _read_header(file, data)
            images[file] = decode_bytes(file, data, competition)
            every.append((kind, tags))
        pixels = stack_images(files, images)
    except Unreachable:
        raise
    except UserError as error:
        return str(error).removeprefix(f"{path}: "), kind, values
    kind = " and ".join(dict.fromkeys(kind for kind, _ in every))
    tags = {name: max(tags.get(name, 0) for _, tags in every) for name in every[0][1]}
    values |= _measure(pixels) | tags | {"encoded": _encode(pixels, ".jpg" if kind.startswith("JPEG") else ".png")}
    return "", kind, values


def _read_header(path, data):
    """Return (kind, {"orientations", "pages", "bits"}) of a file's bytes."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".npy":
        try:
            array = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError, OSError):
            return "npy", {}
        return f"npy {array.dtype}, {array.ndim} axes", {}
    if suffix in (".dcm", ".dicom") or data[128:132] == b"DICM":
        return "DICOM", {}
    try:
        header = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
    except Exception:  # Pillow raises many kinds on a broken file; decoding then says what is wrong
        return "?", {}
    kind, orientation = f"{header.format} {header.mode}", read_orientation(header, data)
    try:
        bits, pages = count_bits(data), min(getattr(header, "n_frames", 1), 65535)
    except Exception:  # as above
        bits, pages = 0, 1
    return kind, {"orientations": orientation, "pages": pages, "bits": bits}


def _encode(pixels, suffix):
    """Return the bytes of the image in one format, extrapolated from its centre; of an array, its bytes in memory."""
    height, width, channels = pixels.shape
    if pixels.dtype != np.uint8 or channels not in (1, 3):
        return pixels.nbytes
    centre = _crop_centre(pixels, _ENCODED_CROP)
    encoded = cv2.imencode(suffix, np.ascontiguousarray(centre))[1]
    return len(encoded) * (height * width / (centre.shape[0] * centre.shape[1]))


def _crop_centre(pixels, side):
    top, left = (max(0, (length - side) // 2) for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def _measure(pixels):
    small = resize_image(pixels, (THUMBNAIL, THUMBNAIL)).astype(np.float32).mean(axis=2)
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        small = (small - low) * (255 / max(high - low, 1e-12))
    thumbnail = np.clip(np.rint(small), 0, 255).astype(np.uint8)
    crop = _crop_centre(pixels, _SHARP_CROP)[..., 0].astype(np.float32)
    as_colours = pixels if pixels.shape[2] <= 4 else pixels.reshape(len(pixels), -1)  # no colours
    mean, std = (float(one.mean()) for one in cv2.meanStdDev(as_colours))
    digest = blake2b(np.ascontiguousarray(pixels), digest_size=8, key=f"{pixels.shape} {pixels.dtype}".encode())
    return {
        "is_uint8": pixels.dtype == np.uint8,
        "heights": pixels.shape[0],
        "widths": pixels.shape[1],
        "lows": pixels.min(),
        "highs": pixels.max(),
        "means": mean,
        "stds": std,
        "sharpness": np.abs(np.diff(crop, axis=1)).mean() if crop.shape[1] > 1 else 0,
        "digests": int.from_bytes(digest.digest(), "little"),
        "hashes": int.from_bytes(np.packbits(imagehash.phash(Image.fromarray(thumbnail)).hash).tobytes(), "big"),
        "thumbnails": thumbnail,
    }

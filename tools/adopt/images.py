"""Size, channels and file type of a few images, read from their headers, and the size and channels to train at."""

import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from src.containers import read_file, split_path
from src.data.inspection import count_bits
from src.errors import UserError

_MAX_SIDE = 224  # what most backbones were pretrained at
_MAX_ARRAY_SIDE = 512


@dataclass(frozen=True)
class Headers:
    """The median (height, width) of some files, the channels stored, and the paths of those that cannot be read."""

    height: int
    width: int
    channels: int
    is_array: bool
    unreadable: list[str]


def read_headers(root, paths):
    """Return the Headers of these files; None when not one can be read."""
    shapes, unreadable = [], []
    for path in paths:
        try:
            shapes.append(_read_shape(str(Path(root) / path)))
        except (OSError, ValueError, EOFError, UserError):  # PIL's own error is an OSError
            unreadable.append(path)
    if not shapes:
        return None
    height, width = (round(median(shape[axis] for shape in shapes)) for axis in (0, 1))
    channels = max(shape[2] for shape in shapes)
    return Headers(height, width, channels, shapes[0][3], unreadable)


def count_bits_in_use(root, paths):
    """Return the bits that the pixels of 16-bit images use, an even number, at least 8; 16 of other images."""
    found = [0]
    for path in paths:
        with suppress(Exception):  # whatever a broken file makes the decoders raise; the doctor names it
            found.append(count_bits(read_file(str(Path(root) / path))))
    return max(8, max(found) + max(found) % 2) if any(found) else 16


def choose_channels(headers):
    """Return (channels, reason): arrays keep theirs; images are RGB, which pretrained networks expect."""
    if headers.is_array:
        return headers.channels, f"the arrays hold {headers.channels}"
    if headers.channels != 1:
        return 3, "RGB"
    if max(headers.height, headers.width) <= 32:
        return 1, "small grey images"
    return 3, "grey, repeated to RGB: pretrained networks want it"


def choose_image_size(headers):
    """Return ((height, width), reason), multiples of 32.

    A pretrained network halves its input five times, so a small image is enlarged to twice its size. Arrays keep about
    their own size, each axis for itself: a thin line in a spectrogram does not survive shrinking.
    """
    height, width = headers.height, headers.width
    found = f"{'arrays' if headers.is_array else 'images'} are {height}x{width}"
    if headers.is_array and min(height, width) > 64:
        size = tuple(min(_MAX_ARRAY_SIDE, _to_32(side)) for side in (height, width))
    elif max(height, width) < 1.6 * min(height, width):
        side = min(_MAX_SIDE, max(64, -(-2 * max(height, width) // 32) * 32))
        size = (side, side)
        found += ", shown larger" if side > max(height, width) else ""
    else:
        scale = min(_MAX_SIDE, 2 * (height * width) ** 0.5) / (height * width) ** 0.5
        size = tuple(max(64, _to_32(scale * side)) for side in (height, width))
        found += ", so not square"
    return size, found


def _to_32(side):
    return max(1, round(side / 32)) * 32


def _read_shape(path):
    """Return (height, width, channels, whether it is an array) from a file's header."""
    packed = read_file(path) if split_path(path)[1] else b""
    if path.lower().endswith(".npy") or packed.startswith(b"\x93NUMPY"):
        array = np.load(io.BytesIO(packed)) if packed else np.load(path, mmap_mode="r", allow_pickle=False)
        shape = array.shape
        if len(shape) == 2:
            return (*shape, 1, True)
        if len(shape) != 3:
            raise ValueError(f"an array of {len(shape)} axes")
        return (*shape[1:], shape[0], True) if shape[0] < shape[2] else (*shape, True)
    with Image.open(io.BytesIO(packed) if packed else path) as image:
        return image.height, image.width, 1 if image.mode in ("1", "L", "I", "F", "I;16", "I;16B") else 3, False

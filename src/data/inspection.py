"""What tools say of images and of their augmentation; training and inference do not need it."""

import inspect
import io
import math

import cv2
import numpy as np
from PIL import Image

from src.data.decode import IMAGE_FORMATS, decode_by_opencv, is_16_bit


def count_bits(data):
    """Return the bits that the largest pixel of a file's bytes takes; 0: not an image of 16-bit pixels."""
    page = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
    if not is_16_bit(page) or (page.mode == "I" and page.format == "TIFF"):
        return 0
    is_grey = page.mode.startswith("I")
    return int((np.asarray(page) if is_grey else decode_by_opencv(data, cv2.IMREAD_UNCHANGED)).max()).bit_length()


def tile_images(images, channels):
    """Return arrays (..., H, W, V * channels) of V images as a grid of them, row by row, black where there is none."""
    count = images.shape[-1] // channels
    if count < 2:
        return images
    wide = math.ceil(math.sqrt(count))
    tall = math.ceil(count / wide)
    height, width, rest = images.shape[-3], images.shape[-2], images.shape[:-3]
    padding = np.zeros((*rest, height, width, tall * wide * channels - images.shape[-1]), images.dtype)
    parts = np.concatenate([images, padding], axis=-1).reshape(*rest, height, width, tall, wide, channels)
    parts = np.moveaxis(parts, (-3, -2), (-5, -3))  # (..., tall, H, wide, W, channels)
    return np.ascontiguousarray(parts).reshape(*rest, tall * height, wide * width, channels)


def describe_transforms(transforms, indent=""):
    """Return one line for each transform, in order: its probability, its name, and what is not its default."""
    lines = []
    for one in transforms:
        defaults = {name: parameter.default for name, parameter in inspect.signature(type(one)).parameters.items()}
        values = {name: getattr(one, name, defaults[name]) for name in defaults if name not in ("p", "transforms")}
        changed = [f"{name}={_short(value)}" for name, value in values.items() if value != defaults[name]]
        lines.append(f"{indent}p={one.p:.2f} {type(one).__name__} {' '.join(changed)}".rstrip())
        lines += describe_transforms(getattr(one, "transforms", ()), indent + "  ")
    return lines


def _short(value):
    """A value without spaces, floats with four digits at most."""
    if isinstance(value, (tuple, list)):
        return f"({','.join(_short(one) for one in value)})"
    if isinstance(value, dict):  # an Affine has the same for both axes
        return " ".join(dict.fromkeys(_short(one) for one in value.values()))
    return f"{value:.4g}" if isinstance(value, float) else str(value)

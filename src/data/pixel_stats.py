"""Mean and standard deviation of a data set's pixels."""

from functools import partial

import numpy as np

from src.data.decode import decode_image
from src.data.parallel import map_images
from src.data.transforms import build_resize


def compute_pixel_stats(table, channels, image_size, max_images=2000, seed=0):
    """Return (mean, std), float64 of shape (channels,), in raw pixel units, of the images as the network sees them.

    A channel that is the same everywhere gets std 1, so that dividing by it is harmless.

    Args:
        table: has .paths, (N,) str.
        image_size: (height, width) the images are resized to first.
        max_images: drawn at random where there are more.
        seed: of that draw.

    Raises:
        UserError: an image cannot be decoded.
    """
    rows = np.arange(len(table))
    if len(rows) > max_images:
        rows = np.sort(np.random.default_rng(seed).choice(rows, max_images, replace=False))
    moments = partial(_moments, channels=channels, image_size=image_size)
    means, variances = np.stack(list(map_images(moments, table.paths[rows], "pixel mean")), axis=1)
    # images are equally large: the variance is the mean of theirs plus the variance of their means
    std = np.sqrt(variances.mean(axis=0) + means.var(axis=0))
    return means.mean(axis=0), np.where(std > 0, std, 1.0)


def _moments(path, channels, image_size):
    pixels = build_resize(image_size)(decode_image(path, channels, image_size), seed=0)
    pixels = pixels.reshape(-1, channels).astype(np.float64)
    return pixels.mean(axis=0), pixels.var(axis=0)

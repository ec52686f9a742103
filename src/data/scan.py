"""One look at many image files, on all cores: those that cannot be decoded, and the mean and std of their pixels."""

import joblib
import numpy as np

from src import remote
from src.competition.image_files import JOIN
from src.data.decode import decode_image
from src.data.transforms import build_resize
from src.errors import UserError
from src.terminal import track


def map_images(function, paths, title):
    """Return an iterator of function(path) of every path, in order, behind a progress bar.

    Threads are enough: decoding and resizing release the GIL. Paths are image_files.Paths or an array of str; what
    lies elsewhere is fetched ahead, by more threads than there are cores.
    """
    calls = (joblib.delayed(function)(path) for path in _fetch_ahead(paths.tolist()))
    found = joblib.Parallel(joblib.cpu_count(), backend="threading", return_as="generator")(calls)
    return track(found, title, len(paths))


def _fetch_ahead(paths):
    """Yield the paths; files elsewhere are asked for as many before their turn as are fetched at once."""
    remote.FETCHING.clear()  # what an error has left, and may be another file by now
    for place, path in enumerate(paths):
        remote.request(path.split(JOIN))
        if place >= remote.CONNECTIONS:
            yield paths[place - remote.CONNECTIONS]
    yield from paths[-remote.CONNECTIONS :]


def find_unreadable(paths, competition):
    """Decode every image once; return [(its place, reason)] of those that cannot be decoded, UserError if none can."""

    def find_reason(path):
        try:
            decode_image(path, competition)
        except remote.Unreachable:  # which says nothing about the image
            raise
        except UserError as error:
            return str(error)

    found = [(place, reason) for place, reason in enumerate(map_images(find_reason, paths, "decoding")) if reason]
    if found and len(found) == len(paths):
        raise UserError(f"none of {len(paths)} images can be decoded (first: {found[0][1]}); copy them again")
    return found


def compute_pixel_stats(paths, config, max_images=2000):
    """Return (mean, std), float64 (channels,), in raw pixel units, of the images as the network sees them.

    A constant channel gets std 1, so that dividing by it is harmless. Of more than max_images some are drawn by seed.
    Where the backbone takes a row's images one by one, they are those of all of them.
    """
    channels, resize = config.competition.network_channels, build_resize(config)
    rows = np.arange(len(paths))
    if len(rows) > max_images:
        rows = np.sort(np.random.default_rng(config.seed).choice(rows, max_images, replace=False))

    def compute_moments(path):
        image = decode_image(path, config.competition, resize.decode_size)
        pixels = resize(image, seed=0).reshape(-1, channels).astype(float)
        return pixels.mean(axis=0), pixels.var(axis=0)

    means, variances = np.stack(list(map_images(compute_moments, paths[rows], "pixel mean")), axis=1)
    # images are equally large: the variance is the mean of theirs plus the variance of their means
    std = np.sqrt(variances.mean(axis=0) + means.var(axis=0))
    return means.mean(axis=0), np.where(std > 0, std, 1.0)

"""One function over many image files, on all cores, behind a progress bar."""

import time
from itertools import chain

import joblib
from tqdm import tqdm

_WORTH_SECONDS = 0.001  # of a call; below it, threads wait for each other (32 px PNG: two take twice the time of one)


def map_images(function, paths, title):
    """Return an iterator of function(path) of every path, in order; decoding and resizing let other threads run.

    Args:
        function: takes a str.
        paths: N str, as an array or competition.paths.Paths.
        title: of the progress bar, which shows on terminals.
    """
    paths, first, seconds = paths.tolist(), [], []
    for path in paths[:3]:
        began = time.perf_counter()
        first.append(function(path))
        seconds.append(time.perf_counter() - began)
    num_threads = joblib.cpu_count() if min(seconds, default=0) > _WORTH_SECONDS else 1
    rest = joblib.Parallel(num_threads, backend="threading", return_as="generator")(
        joblib.delayed(function)(path) for path in paths[3:]
    )
    return tqdm(chain(first, rest), title, len(paths), leave=False, unit=" images", disable=None)

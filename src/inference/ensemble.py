"""Several networks' predictions -> one; a new way is a function and an entry below (numpy and scipy, no torch).

Its attribute `needs` says what it must see at once of 10^6 rows: "rows" (any some), "columns" (one), else all.
"""

import math
import os
import tempfile
from functools import cached_property, partial

import numpy as np
from scipy.stats import rankdata

MOST_VALUES = 2**24  # of predictions that are read at once, where they are in files: 64 MB


def mean(probs):
    """Average probabilities (M, N, C) over the M models, in float64."""
    return sum(np.asarray(one, dtype=np.float64) for one in probs) / len(probs)


def rank_mean(probs):
    """Average each model's ranks instead of its values, column by column; in (0, 1].

    ROC AUC looks at the order only, so models that are calibrated differently count the same.
    """
    return mean([rankdata(np.asarray(one, dtype=np.float64), axis=0) / len(one) for one in probs])


mean.needs, rank_mean.needs = "rows", "columns"
ENSEMBLES = {"mean": mean, "rank": rank_mean}


class Predictions:
    """What M networks predict for R of a table's N rows, probs (M, R, C) float32; the other rows have their mean.

    rows: (R,) int, rising; spans: (first, last) among the R of what is read at once.
    """

    folder = None

    def __init__(self, probs, rows, num_rows):
        self.num_networks, _, self.num_columns = probs.shape
        self._probs, self._rows, self._num_rows, self.spans = probs, rows, num_rows, [(0, len(rows))]

    def blocks(self, networks=slice(None)):
        """Yield (slice of the table's rows, probs (M', n, C) of some networks), in order, for all N rows."""
        for number, (first, last) in enumerate(self.spans):
            begin = self._rows[first] if first else 0
            end = self._rows[last] if last < len(self._rows) else self._num_rows
            probs = self._read(number, networks)
            yield slice(begin, end), self._fill(probs, self._rows[first:last] - begin, end - begin, networks)

    def average(self, how, calibrate):
        """Return the networks' average (N, C) float64 by ENSEMBLES[how], calibrated; what it needs is read at once."""
        function, shape = ENSEMBLES[how], (self._num_rows, self.num_columns)
        needs, is_large = getattr(function, "needs", "all"), self.folder and shape[0] * shape[1] > MOST_VALUES
        average = _create_on_disk(self.folder, shape) if is_large else np.empty(shape)
        pieces = self.blocks()
        if needs == "columns":
            fill = partial(self._fill, places=self._rows, num_rows=self._num_rows)
            pieces = (((slice(None), one), fill(probs, columns=one)) for one, probs in self._columns())
        elif needs == "all":
            pieces = [(slice(None), np.concatenate([probs for _, probs in pieces], axis=1))]
        for place, probs in pieces:
            average[place] = calibrate(function(probs))
        return average

    def delete(self):
        """Delete what is on the disk: nothing."""

    @cached_property
    def _means(self):
        """(M, 1, C) float32 means of the R rows, whose last bits no number of parts changes."""
        means = [[np.ascontiguousarray(one).mean(dtype="f8") for one in probs[..., 0]] for _, probs in self._columns()]
        return np.array(means, dtype="f4").T[:, None]

    def _fill(self, probs, places, num_rows, networks=slice(None), columns=slice(None)):
        """Return (M, num_rows, C) that holds probs (M, n, C) at their places, and else the means."""
        if len(places) == num_rows:
            return probs
        filled = np.repeat(self._means[networks, :, columns], num_rows, axis=1)
        filled[:, places] = probs
        return filled

    def _columns(self):
        """Yield (slice of one column, (M, R, 1)) of each; some are read at once."""
        at_once = max(1, MOST_VALUES // 4 // (len(self._rows) * self.num_networks))
        for first in range(0, self.num_columns, at_once):
            some = slice(first, first + at_once)
            probs = np.concatenate([self._read(one, columns=some) for one in range(len(self.spans))], axis=1)
            yield from (
                (slice(first + one, first + one + 1), probs[..., one : one + 1]) for one in range(probs.shape[2])
            )

    def _read(self, number, networks=slice(None), columns=slice(None)):
        return self._probs[networks, :, columns]


def _create_on_disk(folder, shape):
    """Return a new array (N, C) float64 in a file of its own, which has room for all: else a full disk were a crash."""
    allocate = getattr(os, "posix_fallocate", lambda *_: None)  # not on all systems
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # it stays as long as the array does
            allocate(file.fileno(), 0, 8 * math.prod(shape))
            return np.memmap(file, "f8", "w+", shape=shape)
    except OSError as error:
        error.filename = str(folder)
        raise

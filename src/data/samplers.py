"""Which rows make each batch of an epoch, for one process of several, and the seeds of a run; numpy only.

Batches are lists of keys (epoch, row, copy): copy counts a row's earlier draws in the same epoch, so that each is
augmented anew. Set `epoch`, and `start`, the number of batches to leave out, before iterating.
"""

import zlib

import numpy as np
import pandas as pd

from src.errors import UserError


def derive_seed(purpose, *numbers):
    """Return one seed of a word and several numbers below 2 ** 32, or words: seed 1, fold 2 is not seed 2, fold 1.

    Their count is among what is hashed, as numpy's SeedSequence fills up with zeros: (1, 2) would be (1, 2, 0, 0).
    """
    numbers = [zlib.crc32(one.encode()) if isinstance(one, str) else one for one in numbers]
    words = (zlib.crc32(purpose.encode()), len(numbers), *numbers)
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


class Ordered:
    """Evaluation: process `rank` takes rows rank, rank + world_size, ...: each row once over all, no padding."""

    epoch, start, shares = 0, 0, None

    def __init__(self, num_rows, batch_size, rank=0, world_size=1):
        self._rows, self._batch_size = np.arange(rank, num_rows, world_size), batch_size
        self.num_images = len(self._rows)

    def __len__(self):
        return -(-self.num_images // self._batch_size)

    def __iter__(self):
        for first in range(self.start * self._batch_size, self.num_images, self._batch_size):
            yield [(self.epoch, int(row), 0) for row in self._rows[first : first + self._batch_size]]


class Shuffled:
    """Training: an epoch's rows in nearly equal global batches, of which this process takes its share.

    k processes see the batches of one process with k times the batch_size. `shares` holds for each batch what this
    process's mean loss is multiplied by, so that the mean over the processes is the mean over all rows.

    Args:
        batch_size: largest number of rows per batch of one process.
        num_batches: batches of an epoch, all full; None: as many as it takes to see every row once.
        at_least: rows of every batch of one process; where they are too few, the batch before takes them.
        chances: (num_rows,) weights of being drawn, with replacement; None: no row comes twice before all came once.
    """

    def __init__(self, num_rows, batch_size, seed, rank=0, world_size=1, num_batches=None, chances=None, at_least=1):
        if num_rows < world_size:
            raise UserError(f"{num_rows} training images: too few for {world_size} processes; use fewer processes")
        self.epoch = self.start = 0
        self._num_rows, self._seed = num_rows, seed
        self._chances = None if chances is None else chances / chances.sum()
        whole = batch_size * world_size
        self._num_drawn = num_rows if num_batches is None else num_batches * whole
        num_batches = num_batches or max(1, min(-(-num_rows // whole), num_rows // (world_size * at_least)))
        batches = np.array_split(np.arange(self._num_drawn), num_batches)  # places among the rows of an epoch
        self._batches = [np.array_split(batch, world_size)[rank] for batch in batches]
        self.num_images = sum(map(len, self._batches))
        self.smallest = len(batches[-1]) // world_size  # rows of the smallest batch of all processes
        self.shares = [len(mine) * world_size / len(batch) for mine, batch in zip(self._batches, batches, strict=True)]

    def __len__(self):
        return len(self._batches)

    def __iter__(self):
        rng = np.random.default_rng(derive_seed("sampler", self._seed, self.epoch))
        if self._chances is None:
            passes = -(-self._num_drawn // self._num_rows)
            rows = np.concatenate([rng.permutation(self._num_rows) for _ in range(passes)])[: self._num_drawn]
        else:
            rows = rng.choice(self._num_rows, self._num_drawn, p=self._chances)
        copies = pd.Series(rows).groupby(rows).cumcount().to_numpy()
        for places in self._batches[self.start :]:
            yield [(self.epoch, int(rows[place]), int(copies[place])) for place in places]


def balanced(targets, task):
    """Each class as often as any other, or positives as often as negatives; over several columns the mean of that."""
    shares = np.nan_to_num(targets), np.nan_to_num(1 - targets)  # what is not known is on neither side
    positives, negatives = (share.sum(axis=0, dtype=np.float64) for share in shares)
    chances = shares[0] / np.maximum(positives, 1e-12)
    if task != "multiclass":
        chances = chances + shares[1] / np.maximum(negatives, 1e-12)
    return chances.sum(axis=1)


# name -> function(targets (N, K) float in [0, 1], task) that returns each row's chance, (N,), or None: every row once
SAMPLERS = {"shuffle": lambda targets, task: None, "balanced": balanced}

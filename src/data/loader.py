"""Dataset, order and DataLoader: rows of an image table -> batches of raw pixels.

The idea to know: what a sample looks like is decided by (seed, epoch, row) alone. The epoch travels to the workers
inside each item's key, so that a run is the same for any number of workers, any restart and any number of processes.
"""

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from src.data.decode import decode_image
from src.errors import UserError


class ImageDataset(Dataset):
    """Decoded and transformed images of a table; an item's key is (epoch, row).

    Args:
        table: has .paths (N,) and .targets (N, C) float32 or None; numpy arrays, as a list of Python strings would
            grow each worker's memory (pytorch issue 13246).
        channels, target_size: as in `decode.decode_image`.
        transform: (image, seed) -> image of one size; a module-level object, as workers may be spawned.
        seed: of the transform's random numbers.
    """

    def __init__(self, table, channels, transform, target_size, seed):
        self.table = table
        self.channels = channels
        self.transform = transform
        self.target_size = target_size
        self.seed = seed

    def __len__(self):
        return len(self.table)

    def __getitem__(self, key):
        """Return {"image", "index"[, "target"]}, or {"error": text}: a raised error would come out of a worker as a
        traceback of many lines."""
        epoch, index = key
        try:
            image = decode_image(str(self.table.paths[index]), self.channels, self.target_size)
            image = self.transform(image, _number((self.seed, epoch, index)))
        except UserError as error:
            return {"error": str(error)}
        item = {"image": image, "index": np.int64(index)}
        return item if self.table.targets is None else item | {"target": self.table.targets[index]}


class Loader:
    """Batches of one process, epoch by epoch; see `build_loader`.

    Attributes:
        num_images: images that one epoch yields on this process.
    """

    def __init__(self, dataset, order, num_workers):
        self._order = order
        self.num_images = order.num_images
        self._batches = DataLoader(
            dataset,
            batch_sampler=order,
            num_workers=num_workers,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
        )

    def __len__(self):
        return len(self._order)

    def batches(self, epoch):
        """Yield {"image": (N, H, W, C) uint8 or float32, "index": (N,) int64[, "target": (N, K) float32]}.

        In training also "share", a float: what this process's mean loss must be multiplied with, so that the mean over
        the processes is that of all their images; 1.0 where all have as many.

        Raises:
            UserError: an image cannot be decoded.
        """
        self._order.epoch = epoch
        for number, batch in enumerate(self._batches):
            if "error" in batch:
                raise UserError(batch["error"])
            if self._order.shares is not None:
                batch["share"] = self._order.shares[number]
            yield batch

    def close(self):
        """End the worker processes; the loader yields nothing afterwards."""
        self._batches = ()


def build_loader(dataset, batch_size, num_workers, shuffle_seed=None, rank=0, world_size=1):
    """Build the Loader of one process.

    With `shuffle_seed` (training) each epoch's permutation is cut into nearly equal global batches of at most
    batch_size * world_size and each process takes its own contiguous part, so that k processes see the batches of one
    process with k times the batch_size, and no image is left out. Without it (evaluation) process `rank`
    takes rows rank, rank + world_size, ...: each row once over all processes, no padding.

    Args:
        batch_size: images per batch of one process.
        num_workers: loader processes; 0 loads in this one.

    Raises:
        UserError: fewer training images than processes.
    """
    if shuffle_seed is None:
        order = _Ordered(len(dataset), batch_size, rank, world_size)
    else:
        order = _Shuffled(len(dataset), batch_size, shuffle_seed, rank, world_size)
    return Loader(dataset, order, num_workers)


class _Ordered:
    """Every world_size-th row, in order."""

    def __init__(self, num_rows, batch_size, rank, world_size):
        self.epoch = 0
        self._rows = np.arange(rank, num_rows, world_size)
        self._batch_size = batch_size
        self.num_images = len(self._rows)
        self.shares = None

    def __len__(self):
        return -(-self.num_images // self._batch_size)

    def __iter__(self):
        for start in range(0, self.num_images, self._batch_size):
            yield [(self.epoch, int(row)) for row in self._rows[start : start + self._batch_size]]


class _Shuffled:
    """This process's part of each global batch of a permutation; no row is left out."""

    def __init__(self, num_rows, batch_size, seed, rank, world_size):
        if num_rows < world_size:
            raise UserError(f"{num_rows} training images: too few for {world_size} processes; use fewer processes")
        self.epoch = 0
        self._num_rows, self._seed, self._rank, self._world_size = num_rows, seed, rank, world_size
        self._num_batches = min(-(-num_rows // (batch_size * world_size)), num_rows // world_size)
        sizes = [(len(batch), len(part)) for batch, part in self._split(np.arange(num_rows))]
        self.num_images = sum(part for _, part in sizes)
        self.shares = [part * world_size / batch for batch, part in sizes]

    def __len__(self):
        return self._num_batches

    def __iter__(self):
        permutation = np.random.default_rng((self._seed, self.epoch)).permutation(self._num_rows)
        for _, part in self._split(permutation):
            yield [(self.epoch, int(row)) for row in part]

    def _split(self, rows):
        """Yield each global batch and this process's part of it."""
        for batch in np.array_split(rows, self._num_batches):
            yield batch, np.array_split(batch, self._world_size)[self._rank]


def _number(words):
    """One 64-bit seed from several numbers, so that epoch 1, row 2 and epoch 2, row 1 differ."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def _collate(items):
    for item in items:
        if "error" in item:
            return item
    return {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}

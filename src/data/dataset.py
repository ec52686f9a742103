"""Dataset and DataLoader: rows of an image table -> batches of raw pixels.

The idea to know: what a sample looks like is decided by (seed, epoch, row, copy) alone. They travel to the workers
inside each item's key, so that a run is the same for any number of workers, any restart and any number of processes.
"""

import os
import signal
import sys

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from src.data.decode import decode_image
from src.data.samplers import Ordered, Shuffled
from src.errors import UserError


class ImageDataset(Dataset):
    """Decoded and transformed images of a table; an item's key is (epoch, row, copy).

    Args:
        table: has .paths (N,) and .targets (N, C) float32 or None; numpy arrays, as a list of Python strings would
            grow each worker's memory (pytorch issue 13246).
        channels, target_size: as in `decode.decode_image`.
        transform: (image, seed) -> image (H, W, C) of one size, or its views (V, H, W, C); a module-level object, as
            workers may be spawned.
        seed: of the transform's random numbers.
        cache: cache.ImageCache of the table's images at target_size; None: the files are read.
    """

    def __init__(self, table, channels, transform, target_size, seed, cache=None):
        self.table = table
        self.channels = channels
        self.transform = transform
        self.target_size = target_size
        self.seed = seed
        self.cache = cache

    def __len__(self):
        return len(self.table)

    def __getitem__(self, key):
        """Return {"image", "index"[, "target"]}, or {"error": text}: a raised error would come out of a worker as a
        traceback of many lines."""
        epoch, index, copy = key
        try:
            image = self.cache.read(index) if self.cache else None
            if image is None:
                image = decode_image(str(self.table.paths[index]), self.channels, self.target_size)
            image = self.transform(image, _number((self.seed, epoch, index, copy)))
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
            worker_init_fn=_leave_it_to_the_main_process,
        )

    def __len__(self):
        return len(self._order)

    def batches(self, epoch, start=0):
        """Yield {"image": (N, H, W, C) uint8 or float32, "index": (N,) int64[, "target": (N, K) float32]}.

        In training also "share", a float: what this process's mean loss must be multiplied with, so that the mean over
        the processes is that of all their images; 1.0 where all have as many.

        Args:
            epoch: counted from 0.
            start: batches of it that are left out; torch's random state is then as it was, as nothing begins here.

        Raises:
            UserError: an image cannot be decoded.
        """
        self._order.epoch, self._order.start = epoch, start
        state = torch.get_rng_state()
        batches = iter(self._batches)  # torch may draw a number for its workers here, but not in all epochs
        torch.set_rng_state(state)
        if not start:
            torch.empty((), dtype=torch.int64).random_()  # it is drawn at each epoch's beginning, and nowhere else
        for number, batch in enumerate(batches, start):
            if "error" in batch:
                raise UserError(batch["error"])
            if self._order.shares is not None:
                batch["share"] = self._order.shares[number]
            yield batch

    def close(self):
        """End the worker processes; the loader yields nothing afterwards."""
        self._batches = ()


def build_loader(dataset, batch_size, num_workers, shuffle_seed=None, rank=0, world_size=1, **drawing):
    """Build the Loader of one process.

    Args:
        batch_size: images per batch of one process.
        num_workers: loader processes; 0 loads in this one.
        shuffle_seed: of the `order.Shuffled` rows of training; None: the `order.Ordered` rows of evaluation.
        drawing: num_batches and weights of `order.Shuffled`.

    Raises:
        UserError: fewer training images than processes.
    """
    if shuffle_seed is None:
        order = Ordered(len(dataset), batch_size, rank, world_size)
    else:
        order = Shuffled(len(dataset), batch_size, shuffle_seed, rank, world_size, **drawing)
    return Loader(dataset, order, num_workers)


def _number(words):
    """One 64-bit seed from several numbers, so that epoch 1, row 2 and epoch 2, row 1 differ."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def _leave_it_to_the_main_process(_):
    """Leave the end to the main process: a terminal, timeout and torchrun send their signals to a whole group.

    And the words: errors travel to the main process; what a worker says when its siblings are killed helps nobody.
    """
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # a group of its own; without a main process a worker ends by itself, within seconds
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  for as long as the worker lives


def _collate(items):
    if isinstance(items, dict):  # a data set that takes a batch's keys at once
        return {name: torch.from_numpy(array) for name, array in items.items()}
    for item in items:
        if "error" in item:
            return item
    return {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}

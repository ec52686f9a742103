"""Dataset and DataLoader: rows of an image table -> batches of raw pixels.

What a sample looks like is decided by (seed, epoch, row, copy) alone, which travel to the workers as each item's key: a
run is the same for any number of workers, any restart and any number of processes.
"""

import os
import signal
import sys

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from src.competition.image_files import JOIN, Paths, name_row
from src.data.decode import decode_image
from src.data.samplers import Ordered, Shuffled, derive_seed
from src.device import loader_options
from src.errors import UserError
from src.remote import is_url, request


class ImageDataset(Dataset):
    """Rows of a table, decoded and transformed; an item's key is (epoch, row, copy).

    Args:
        table: competition.tables.ImageTable, of arrays: lists of str grow each worker's memory (pytorch issue 13246).
        competition: config.settings.Competition: how its files are read; transform: transforms.Augmentation; seed: of
            its random numbers.
        caches: {(height, width): cache.ImageCache}; what they lack is read from the files.
    """

    def __init__(self, table, competition, transform, seed, caches=None):
        self.table, self.competition, self.transform, self.seed = table, competition, transform, seed
        self.caches, self.on_device = caches or {}, getattr(transform, "on_device", None)

    def read(self, row):
        """Return {input name: value} of one row: the keyword arguments of the network's forward.

        Further inputs beside them are another `read`. A str is an image file, an array (H, W, C) of
        uint8 or float32 an image; each image is transformed on its own. Anything else is stacked to a tensor (N, ...).
        """
        if self.table.metadata is not None:
            return {"image": str(self.table.paths[row]), "metadata": self.table.metadata[row]}
        return {"image": str(self.table.paths[row])}

    def list_paths(self):
        """Return the Paths of all image files that `read` names, each once."""
        values = (value for row in range(len(self)) for value in self.read(row).values())
        return Paths.of(dict.fromkeys(value for value in values if isinstance(value, str)))

    def __len__(self):
        return len(self.table)

    def __getitem__(self, key):
        """Return {"inputs", "index"[, "target", "draws"]}, or {"error": text}: in a worker it would be a traceback."""
        row, inputs, draws, load = key[1], {}, {}, self.transform.load if self.on_device else self.transform
        try:
            for name, value in self.read(row).items():
                if (image := self._load(value)) is not None:
                    value = load(image, seed := derive_seed("image", self.seed, *key, len(draws)))
                    draws[name] = self.on_device.draw(seed) if self.on_device else None
                inputs[name] = value
        except UserError as error:
            return {"error": name_row(error, self.table.ids[row : row + 1], self.table.paths[row : row + 1])}
        item = {"inputs": inputs, "index": np.int64(row)} | ({"draws": draws} if self.on_device else {})
        return item if self.table.targets is None else item | {"target": self.table.training_targets[row]}

    def __getitems__(self, keys):
        """Return a batch's items; those of its files that lie elsewhere are fetched beside each other."""
        if any(is_url(str(self.table.paths[key[1]])) for key in keys):
            cache = self.caches.get(self.transform.decode_size)
            values = (value for key in keys for value in self.read(key[1]).values() if isinstance(value, str))
            request(file for value in values if not cache or cache.find(value) is None for file in value.split(JOIN))
        return [self[key] for key in keys]

    def _load(self, value):
        """Return the image that a value of `read` is or names, or None."""
        if isinstance(value, str):
            cache = self.caches.get(self.transform.decode_size)
            image = cache.read(value) if cache else None
            return decode_image(value, self.competition, self.transform.decode_size) if image is None else image
        return value.copy() if is_image_input(value) else None  # a transform may work in place


def is_image_input(value):
    """Whether a value of `ImageDataset.read` is transformed: a file's name, or pixels (H, W, C)."""
    is_array = isinstance(value, np.ndarray) and value.ndim == 3 and value.dtype in (np.uint8, np.float32)
    return is_array or isinstance(value, str)


class Loader:
    """Batches of one of `world_size` processes, epoch by epoch; `num_images` are its own. See `build_loader`."""

    def __init__(self, dataset, sampler, num_workers, world_size=1):
        self._sampler, self.num_images, self.world_size = sampler, sampler.num_images, world_size
        self.smallest_batch = getattr(sampler, "smallest", None)  # of all processes, in training
        self._on_device = getattr(dataset, "on_device", None)
        self._batches = DataLoader(
            dataset, batch_sampler=sampler, collate_fn=_collate, worker_init_fn=_leave_signals_to_main,
            **loader_options(num_workers),
        )  # fmt: skip

    def __len__(self):
        return len(self._sampler)

    def batches(self, epoch, start=0):
        """Yield {"inputs": {name: (N, ...) tensor}, "index": (N,) int64[, "target": (N, K) float32]}.

        Images are (N, H, W, C) uint8 or float32, or (N, V, H, W, C) of V views. In training also "share", see Shuffled.
        With augment.place=device also "draws", {image: (N, D)}, and "on_device", which applies them.
        `start` batches are left out where an epoch (from 0) resumes; torch's random state is then left alone.
        """
        self._sampler.epoch, self._sampler.start = epoch, start
        with torch.random.fork_rng(devices=[]):
            batches = iter(self._batches)  # torch may draw a number for its workers here, but not in all epochs
        if not start:
            torch.empty((), dtype=torch.int64).random_()  # so it is drawn at each epoch's beginning, and nowhere else
        for number, batch in enumerate(batches, start):
            if "error" in batch:
                raise UserError(batch["error"])
            if self._sampler.shares is not None:
                batch["share"] = self._sampler.shares[number]
            yield batch | {"on_device": self._on_device} if "draws" in batch else batch

    def close(self):
        """End the worker processes; the loader yields nothing afterwards."""
        self._batches = ()


def build_loader(dataset, batch_size, num_workers, sampler=None, shuffle_seed=None, rank=0, world_size=1, **drawing):
    """Build the Loader of process `rank` of `world_size`; num_workers=0 loads without further processes.

    The sampler yields batches of keys; None: `Shuffled` by shuffle_seed, with num_batches, chances and at_least as
    given in `drawing`, or `Ordered` without a shuffle_seed.
    """
    if sampler is None and shuffle_seed is None:
        sampler = Ordered(len(dataset), batch_size, rank, world_size)
    elif sampler is None:
        sampler = Shuffled(len(dataset), batch_size, shuffle_seed, rank, world_size, **drawing)
    return Loader(dataset, sampler, num_workers, world_size)


def _leave_signals_to_main(_):
    """A terminal, timeout and torchrun send their signals to a whole group, of which the main process takes care."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # a group of its own; without a main process a worker ends by itself, within seconds
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # errors travel to the main process; what a worker says when its siblings are killed helps nobody
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _collate(items):
    failed = [item for item in items if "error" in item] if isinstance(items, list) else []
    return failed[0] if failed else _to_tensors(items)


def _to_tensors(items):
    """Stack a list of items; a dataset that takes all keys of a batch at once has stacked them itself."""
    if isinstance(items, list):
        is_nested = isinstance(items[0], dict)
        items = {name: [item[name] for item in items] for name in items[0]} if is_nested else np.stack(items)
    if isinstance(items, dict):
        return {name: _to_tensors(value) for name, value in items.items()}
    return torch.from_numpy(items.astype(np.float32) if items.dtype == np.float64 else items)  # as networks compute

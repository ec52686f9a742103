"""The input of every system, and its output: one JSON line, timed after the imports."""

import contextlib
import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import pandas as pd


@dataclasses.dataclass(frozen=True)
class Task:
    """The same for all systems of a case, except the last three: None leaves them to the system."""

    table: str  # CSV: id, label (0 or 1), fold (0 validates)
    images: str  # folder of the ids
    backbone: str
    weights: str | None  # None: random weights
    image_size: int
    batch_size: int
    epochs: int
    seed: int
    device: str
    precision: str | None = None
    channels_last: bool | None = None
    num_workers: int | None = None

    def rows(self):
        """Return the table with a column `path`."""
        table = pd.read_csv(self.table, dtype={"id": str})
        return table.assign(path=[str(Path(self.images) / name) for name in table["id"]])

    def split(self):
        """Return the rows to train and to validate on."""
        rows = self.rows()
        return rows[rows["fold"] != 0], rows[rows["fold"] == 0]

    def choose(self, name, otherwise):
        """Return an option of the task, or `otherwise` where the task leaves it open."""
        given = getattr(self, name)
        return otherwise if given is None else given

    @property
    def timm_arguments(self):
        """Arguments of timm.create_model that start from the task's weights."""
        return {"pretrained": True, "pretrained_cfg_overlay": {"file": self.weights}} if self.weights else {}


class Timer:
    """Measures seconds of each epoch's training batches, and from the start to each epoch's end with validation."""

    def __init__(self):
        self._start = time.perf_counter()
        self.train_seconds, self.epoch_ends = [], []

    def start_batches(self):
        """Call before the first batch is loaded."""
        self._batches = time.perf_counter()

    def end_batches(self):
        """Call after the last batch."""
        self.train_seconds.append(time.perf_counter() - self._batches)

    def end_epoch(self):
        """Call at the end of the epoch, after its validation."""
        self.epoch_ends.append(self.now())

    def now(self):
        """Return the seconds since the start."""
        return time.perf_counter() - self._start


def run_as_program(run):
    """Run `run(task, timer)` on the task of the command line; print its result and the timer's as one JSON line.

    Everything else goes to stderr.

    Args:
        run: returns a dict of measurements, with num_images, the training images of an epoch.
    """
    task = Task(**json.loads(sys.argv[1]))
    load = os.getloadavg()[0]
    with contextlib.redirect_stdout(sys.stderr):
        timer = Timer()
        result = run(task, timer)
        seconds = timer.now()
    assert len(timer.epoch_ends) == len(timer.train_seconds) == task.epochs, "the timer is called in every epoch"
    result |= {"seconds": seconds, "epoch_ends": timer.epoch_ends, "train_seconds": timer.train_seconds}
    print(json.dumps(result | {"load_average_before": load}), flush=True)

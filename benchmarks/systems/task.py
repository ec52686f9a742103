"""What every system of the benchmark is given, and what it hands back: one JSON line, timed after its imports."""

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
    """The same for all systems of a case, but for the last three: None leaves them to the system."""

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
        """Return an option of the task, or `otherwise` where it is left to the system."""
        given = getattr(self, name)
        return otherwise if given is None else given

    @property
    def timm_arguments(self):
        """What timm.create_model needs to start from the task's weights."""
        return {"pretrained": True, "pretrained_cfg_overlay": {"file": self.weights}} if self.weights else {}


class Watch:
    """Seconds of an epoch's training batches, and from the start until each epoch's end, validation included."""

    def __init__(self):
        self._start = time.perf_counter()
        self.train_seconds, self.epoch_ends = [], []

    def start_batches(self):
        """The first batch is about to be asked for."""
        self._batches = time.perf_counter()

    def end_batches(self):
        """The last batch is done."""
        self.train_seconds.append(time.perf_counter() - self._batches)

    def end_epoch(self):
        """The epoch is done, validated where it is."""
        self.epoch_ends.append(self.now())

    def now(self):
        """Return the seconds since the start."""
        return time.perf_counter() - self._start


def run_as_program(run):
    """Run `run(task, watch)` on the task of the command line; print what it returns, and the watch, as one JSON line.

    All else that is printed goes to stderr.

    Args:
        run: returns a dict with num_images, those of an epoch of training, and what else it measured.
    """
    task = Task(**json.loads(sys.argv[1]))
    load = os.getloadavg()[0]
    with contextlib.redirect_stdout(sys.stderr):
        watch = Watch()
        result = run(task, watch)
        seconds = watch.now()
    assert len(watch.epoch_ends) == len(watch.train_seconds) == task.epochs, "the watch is told of every epoch"
    result |= {"seconds": seconds, "epoch_ends": watch.epoch_ends, "train_seconds": watch.train_seconds}
    print(json.dumps(result | {"load_average_before": load}), flush=True)

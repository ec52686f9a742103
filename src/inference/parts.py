"""Test predictions in memory or in parts, parquet files that are kept until they are merged: a killed infer.py resumes
with those that are there, and the processes of torchrun share the rows."""

import hashlib
import json
import os
import platform
import time
from contextlib import suppress
from datetime import timedelta
from functools import cached_property, partial
from importlib.util import find_spec
from itertools import islice

import numpy as np
import torch

from src.checkpointing.run_folder import training_settings
from src.competition.image_files import JOIN
from src.config.settings import REPOSITORY, value_of
from src.containers import split_path, stat_file
from src.data.dataset import build_loader
from src.data.samplers import Ordered
from src.device import choose_interface
from src.errors import UserError
from src.files import atomic_path, delete_unfinished, save_text
from src.inference.ensemble import ENSEMBLES
from src.remote import is_url
from src.training.provenance import read_versions

_MANY_ROWS, _MANY_VALUES = 100_000, 2**26  # of all networks, from which on there are parts: a long run, 256 MB
_PART_ROWS, _PART_VALUES = 8192, 2**24  # at most of a part: what a kill loses, 64 MB
_PATIENCE = 60  # seconds until a file of another host is seen
_AVERAGE, _SUBMISSION = "average.npy", "submission"  # beside the parts; the latter holds what they are of
_SETTINGS = ("device_kwargs", "unreadable", "precision", "infer.tta", "infer.tta_weights", "infer.engine")


class Processes:
    """The processes of torchrun, or this one alone; they talk through gloo on any device."""

    def __init__(self):
        self.count = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ["RANK"]) if self.count > 1 else 0

    def share(self, build):
        """Return what build() returns in the first process, where alone it is called."""
        if self.count > 1 and not torch.distributed.is_initialized():  # days, as the first one may decode all images
            choose_interface()
            torch.distributed.init_process_group("gloo", timeout=timedelta(days=30))
        values = [build() if self.rank == 0 else None]
        if self.count > 1:
            torch.distributed.broadcast_object_list(values)
        return values[0]

    def end(self):
        """Wait for all processes; return whether this is the first, which merges the parts."""
        if self.count > 1:
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
        return self.rank == 0


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
        needs, is_large = getattr(function, "needs", "all"), self.folder and shape[0] * shape[1] > _PART_VALUES
        average = _create_on_disk(self.folder / _AVERAGE, shape) if is_large else np.empty(shape)
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
        at_once = max(1, _PART_VALUES // 4 // (len(self._rows) * self.num_networks))
        for first in range(0, self.num_columns, at_once):
            some = slice(first, first + at_once)
            probs = np.concatenate([self._read(one, columns=some) for one in range(len(self.spans))], axis=1)
            yield from (
                (slice(first + one, first + one + 1), probs[..., one : one + 1]) for one in range(probs.shape[2])
            )

    def _read(self, number, networks=slice(None), columns=slice(None)):
        return self._probs[networks, :, columns]


class Parts(Predictions):
    """Predictions in files part_<number>.parquet of a folder: a column `row`, and one of each network and target.

    A file says which submission it is of; one that is of another, or is cut or changed, counts as not there.

    Args:
        folder: pathlib.Path; fingerprint: of all that decides the predictions; names: of the networks; targets: names.
        size: rows of a part.
    """

    def __init__(self, folder, fingerprint, names, targets, size, rows, num_rows):
        self.folder, self.fingerprint, self._rows, self._num_rows = folder, fingerprint, rows, num_rows
        self._names = np.array([[f"{name}:{target}" for target in targets] for name in names], dtype=object)
        self.num_networks, self.num_columns = self._names.shape
        self.spans = [(first, min(first + size, len(rows))) for first in range(0, len(rows), size)]

    def path(self, number):
        return self.folder / f"part_{number:06d}.parquet"

    def save(self, number, probs):
        """Write the probs (M, n, C) of a part."""
        import pyarrow
        from pyarrow import parquet

        columns = {"row": self._rows[slice(*self.spans[number])]}
        columns |= {name: np.ascontiguousarray(probs[m, :, c]) for (m, c), name in np.ndenumerate(self._names)}
        table = pyarrow.table(columns).replace_schema_metadata({"submission": self.fingerprint})
        how = {"compression": "none", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
        with atomic_path(self.path(number)) as temporary:
            parquet.write_table(table, temporary, **how)

    def is_there(self, number):
        """Whether a part is finished and whole."""
        with suppress(UserError):
            return self._read(number) is not None
        return False

    def delete(self):
        """Delete the files, and the folder unless others have put something there."""
        for path in (*self.folder.glob("part_*.parquet"), self.folder / _AVERAGE, self.folder / _SUBMISSION):
            with suppress(OSError):  # Windows keeps what is open
                path.unlink()
        with suppress(OSError):
            self.folder.rmdir()

    def delete_others(self):
        """Delete the parts that are of another submission."""
        for path in self.folder.glob("part_*.parquet"):
            try:
                self._open(path).close()
            except Exception:  # whatever pyarrow makes of a damaged file
                path.unlink()

    def _read(self, number, networks=slice(None), columns=slice(None)):
        names = self._names[networks, columns]
        with suppress(Exception), self._open(self.path(number)) as file:
            table = file.read(["row", *names.flat], use_threads=False)
            if np.array_equal(table.column("row").to_numpy(), self._rows[slice(*self.spans[number])]):
                return np.stack([np.stack([table.column(one).to_numpy() for one in some], axis=1) for some in names])
        raise UserError(f"{self.path(number)}: damaged or gone; run the same command again, which predicts it anew")

    def _open(self, path):
        from pyarrow.parquet import ParquetFile  # here, as most test sets are small

        file = ParquetFile(path, page_checksum_verification=True)
        if (file.schema_arrow.metadata or {}).get(b"submission") != self.fingerprint.encode():
            file.close()
            raise ValueError("of another submission")
        return file


def _create_on_disk(path, shape):
    """Return a new array (N, C) float64 in a file that has room for all: else a full disk would be a crash later."""
    try:
        array = np.lib.format.open_memmap(path, "w+", "f8", shape)
        with open(path, "r+b") as file:
            getattr(os, "posix_fallocate", lambda *_: None)(file.fileno(), 0, os.path.getsize(path))  # not on all
        return array
    except OSError as error:
        error.filename = str(path)
        raise


def choose_part_rows(config, num_rows, num_values, num_processes):
    """Return the rows of a part, whole batches, or None where predictions stay in memory: of few, or in a time budget.

    num_values: of a row, of all networks.
    """
    asked, batch_size = config.infer.part_rows, config.eval_batch_size
    is_large = num_rows >= _MANY_ROWS or num_rows * num_values > _MANY_VALUES
    budget = config.infer.time_budget
    if budget is not None and num_processes > 1:
        advice = "leave it out, or run infer.py without torchrun"
        raise UserError(f"infer.time_budget={budget}: one process alone keeps to it; {advice}")
    if budget is not None or (asked is None and num_processes == 1 and not is_large):
        return None
    if num_processes > 1 and config.infer.engine == "auto":
        raise UserError("infer.engine=auto: each process might choose another; set infer.engine=onnxruntime or torch")
    if find_spec("pyarrow") is None:
        lacks = "predictions go to parts, which need pyarrow; pip install pyarrow"
        if asked is not None or num_processes > 1:
            raise UserError(f"infer.py: {lacks}")
        print(f"{num_rows} test images: {lacks}; without it all are in memory, and a killed infer.py begins anew")
        return None
    most = min(_PART_ROWS, _PART_VALUES // num_values, -(-num_rows // num_processes))
    return max(1, -(-(asked or most) // batch_size)) * batch_size


def open_parts(folder, processes, config, folds, table, rows, size, device):
    """Return the Parts of a submission in a folder, the same for all processes; those of another one are deleted.

    rows: (R,) of the table that are predicted. A process that has other weights, test rows or code is refused.
    """
    own = _compute_fingerprint(config, folds, table, rows, size, device)

    def begin():
        made = Parts(folder, _hash_files(own, table.paths), names, table.target_names, size, rows, len(table))
        delete_unfinished(folder)
        made.delete_others()
        save_text(folder / _SUBMISSION, made.fingerprint)
        return own, made.fingerprint

    names = [fold.path.name for fold in folds]
    first, fingerprint = processes.share(begin)
    where = f"process {processes.rank} on {platform.node()}"
    if own != first:
        raise UserError(
            f"{where}: has another run, code, libraries or test rows than the first; give every host the same"
        )
    for _ in range(_PATIENCE):  # a network's folder may show a file late
        with suppress(OSError):
            if (folder / _SUBMISSION).read_text(encoding="utf-8") == fingerprint:
                return Parts(folder, fingerprint, names, table.target_names, size, rows, len(table))
        time.sleep(1)
    raise UserError(f"{where}: does not see {folder} of the first; set infer.output to a folder that all hosts share")


def predict_parts(parts, processes, dataset, num_workers, batch_size, predict_batches):
    """Predict this process's parts that are not there yet, and save each.

    predict_batches: (loader, title) -> probs (M, n, C).
    """
    own = range(len(parts.spans))[processes.rank :: processes.count]
    missing = [number for number in own if not parts.is_there(number)]
    if len(missing) < len(own):
        print(f"{parts.folder}: {len(own) - len(missing)} of {len(own)} parts are there", flush=True)
    if not missing:
        return
    sampler = _Some(np.concatenate([np.arange(*parts.spans[number]) for number in missing]), batch_size)
    loader = build_loader(dataset, batch_size, num_workers, sampler)
    batches = loader.batches(0)  # one loader, so that no worker waits between two parts
    for number in missing:
        first, last = parts.spans[number]
        part = _Part(batches, last - first, -(-(last - first) // batch_size))
        title = f"test, part {number + 1} of {len(parts.spans)}" if processes.rank == 0 else ""
        parts.save(number, predict_batches(part, title))
    loader.close()


class _Some(Ordered):
    """Some rows, in order."""

    def __init__(self, rows, batch_size):
        super().__init__(0, batch_size)
        self._rows, self.num_images = rows, len(rows)


class _Part:
    """A loader of the next batches of another."""

    world_size = 1

    def __init__(self, batches, num_images, num_batches):
        self._batches, self.num_images, self._num_batches = batches, num_images, num_batches

    def __len__(self):
        return self._num_batches

    def batches(self, epoch):
        return islice(self._batches, self._num_batches)


def _compute_fingerprint(config, folds, table, rows, size, device):
    """Return a hash of what decides the predictions on any host: settings, weights, code, test rows."""
    settings = {key: str(value_of(config, key)) for key in (*training_settings(), *_SETTINGS)}
    settings |= {"part_rows": size, "batch_size": config.eval_batch_size, "device": device.type, **read_versions()}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    weights = [fold.weights(config.train.select) for fold in folds]
    for path in (*weights, *sorted((REPOSITORY / "src").rglob("*.py"))):
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    for values in (table.ids, rows, table.metadata):
        digest.update(b"" if values is None else np.ascontiguousarray(values).view(np.uint8))
    return digest.hexdigest()


def _hash_files(begun, paths):
    """Return a hash, after another, of paths and their files' sizes and times; http has none, other URLs as listed."""
    digest = hashlib.sha256(begun.encode())
    for path in paths:
        digest.update(path.encode(errors="surrogateescape"))
        for file in path.split(JOIN):
            with suppress(OSError):
                status = None if is_url(file) else os.stat(split_path(file)[0])
                digest.update(b"%d %d" % (stat_file(file) if status is None else (status.st_size, status.st_mtime_ns)))
    return digest.hexdigest()

"""Test predictions in parts, parquet files that are kept until they are merged: a killed infer.py resumes with those
that are there, and the processes of torchrun share the rows."""

import json
import platform
import time
from contextlib import suppress
from importlib.util import find_spec
from itertools import chain, islice

import numpy as np
from accelerate import PartialState

from src.competition.image_files import JOIN
from src.containers import stat_file
from src.errors import UserError
from src.files import atomic_path, delete_unfinished, save_text
from src.inference.ensemble import MOST_VALUES, Predictions
from src.training.processes import check_alike, describe_work, from_main, hash_bytes

_MANY_ROWS, _MANY_VALUES = 100_000, 2**26  # of all networks, from which on there are parts: a long run, 256 MB
_PART_ROWS = 8192  # at most of a part: what a kill loses
_PATIENCE = 60  # seconds until a file of another host is seen
_SUBMISSION = "submission"  # beside the parts: what they are of
_SETTINGS = ("device_kwargs", "unreadable", "infer.tta", "infer.tta_weights", "infer.engine")


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

    def are_begun(self):
        """Whether the folder holds parts of this submission, and not of another; there may be none yet."""
        with suppress(OSError):
            return (self.folder / _SUBMISSION).read_text(encoding="utf-8") == self.fingerprint
        return False

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

    def list_missing(self):
        """Return the numbers of this process's parts, every n-th of n processes', that are not there yet."""
        own = range(len(self.spans))[PartialState().process_index :: PartialState().num_processes]
        missing = [number for number in own if not self.is_there(number)]
        if len(missing) < len(own):
            print(f"{self.folder}: {len(own) - len(missing)} of {len(own)} parts are there", flush=True)
        return missing

    def is_there(self, number):
        """Whether a part is finished and whole."""
        with suppress(UserError):
            return self._read(number) is not None
        return False

    def delete(self):
        """Delete the files, and the folder unless others have put something there."""
        for path in (*self.folder.glob("part_*.parquet"), self.folder / _SUBMISSION):
            with suppress(OSError):  # Windows keeps what is open
                path.unlink()
        with suppress(OSError):
            self.folder.rmdir()

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
    most = min(_PART_ROWS, MOST_VALUES // num_values, -(-num_rows // num_processes))
    return max(1, -(-(asked or most) // batch_size)) * batch_size


def open_parts(folder, config, folds, table, rows, size, device):
    """Return the Parts of a submission in a folder, the same for all processes; those of another one are deleted.

    rows: (R,) of the table that are predicted. A process that has other weights, test rows or code is refused.
    """
    facts = describe_work(config, _SETTINGS, (table.ids, rows, table.metadata))
    weights = (fold.weights(config.train.select).read_bytes() for fold in folds)
    facts |= {"the weights": hash_bytes(weights), "the device": device.type}
    facts |= {"infer.part_rows": size, "infer.batch_size": config.eval_batch_size}
    check_alike(facts)
    fingerprint = from_main(lambda: hash_bytes(chain([json.dumps(facts).encode()], _describe_files(table.paths))))
    names = [fold.path.name for fold in folds]
    parts = Parts(folder, fingerprint, names, table.target_names, size, rows, len(table))
    if PartialState().is_main_process:
        delete_unfinished(folder)
        if not parts.are_begun():
            parts.delete()
            save_text(folder / _SUBMISSION, fingerprint)
    for _ in range(_PATIENCE):  # a network's folder may show a file late
        if parts.are_begun():
            return parts
        time.sleep(1)
    where = f"process {PartialState().process_index} (host {platform.node()})"
    raise UserError(f"{where}: does not see {folder} of the first; set infer.output to a folder that all hosts share")


def _describe_files(paths):
    """Yield the bytes of paths, and of their files' sizes and times; http has none, other URLs as listed."""
    for path in paths:
        yield path.encode(errors="surrogateescape")
        for file in path.split(JOIN):
            with suppress(UserError):
                yield b"%d %d" % stat_file(file)


def predict_parts(parts, missing, loader, batch_size, predict_batches):
    """Predict some parts, whose rows are those of the loader in order, and save each.

    missing: their numbers; predict_batches: (loader, title) -> probs (M, n, C).
    """
    batches = loader.batches(0)  # one loader, so that no worker waits between two parts
    for number in missing:
        first, last = parts.spans[number]
        part = _Part(batches, last - first, -(-(last - first) // batch_size))
        title = f"test, part {number + 1} of {len(parts.spans)}" if PartialState().is_main_process else ""
        parts.save(number, predict_batches(part, title))


class _Part:
    """A loader of the next batches of another."""

    world_size = 1

    def __init__(self, batches, num_images, num_batches):
        self._batches, self.num_images, self._num_batches = batches, num_images, num_batches

    def __len__(self):
        return self._num_batches

    def batches(self, epoch):
        return islice(self._batches, self._num_batches)

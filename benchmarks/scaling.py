"""Seconds and memory from a CSV to its dataset, for a thousand to a million images, and the memory of each worker.

The images are real files, hard links of small JPEGs in 256 folders, so that finding, checking and reading them costs
what it does in a competition; each size is measured in its own process.
"""

import contextlib
import ctypes
import dataclasses
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.report import read_words, save_report, table_text
from src.config.settings import REPOSITORY, Competition
from src.errors import UserError, one_line_errors

USAGE = """usage: python -m benchmarks.scaling [key=value ...]

  rows=1000,10000,100000,1000000   images of each measurement; a million take a minute to link and to delete
  folder=DIR                       where a folder of images is made and deleted; the system's for temporary files
  folds=stratified,stratified_group  splits that are measured, each alone; empty: none
  workers=2                        loader workers whose memory is measured
  output=outputs/benchmarks/scaling.json

Targets: the table and its dataset in 5 s and 300 MB for a million rows; 150 MB for each further worker.
"""

DEFAULTS = {
    "rows": "1000,10000,100000,1000000", "folder": "", "folds": "stratified,stratified_group", "workers": "2",
    "output": "outputs/benchmarks/scaling.json",
}  # fmt: skip
LINKS_PER_FILE = 50_000  # ext4 allows 65,000
SIZE = (32, 32)
MEGABYTE = 2**20


def make_competition(folder, num_rows, seed=0):
    """Write train.csv (id, target, patient) and its images train/ab/ab12...jpg; return the Competition."""
    import cv2

    rng, folder = np.random.default_rng(seed), Path(folder)
    ids = make_ids(num_rows)
    columns = {
        "id": ids,
        "target": (rng.random(num_rows) < 0.1).astype(int),
        "patient": [f"p{number:07d}" for number in rng.integers(0, max(2, num_rows * 3 // 10), num_rows)],
    }
    folder.mkdir(parents=True)
    pd.DataFrame(columns).to_csv(folder / "train.csv", index=False)
    image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    folders, source = set(), None
    for row, one in enumerate(ids):
        if row % LINKS_PER_FILE == 0:
            source = str(folder / f"{row}.jpg")
            cv2.imwrite(source, image)
        place = f"{folder}/train/{one[:2]}"
        if place not in folders:
            os.makedirs(place)
            folders.add(place)
        os.link(source, f"{place}/{one}.jpg")
    return _competition(folder)


def make_ids(num_rows):
    """Return distinct ids of ten hexadecimal digits, unsorted and spread evenly over 256 folders."""
    numbers = (np.arange(num_rows, dtype=np.uint64) * np.uint64(0x9E3779B97F)) % np.uint64(1 << 40)  # odd: one to one
    return [f"{number:010x}" for number in numbers.tolist()]


def _competition(folder):
    return Competition(
        name="scaling", root=str(folder), train_table="train.csv", train_image="train/{id[0]}{id[1]}/{id}.jpg",
        targets=["target"], group="patient",
    )  # fmt: skip


class Meter:
    """Measures stages: seconds, CPU seconds, memory that stays allocated, and the peak."""

    def __init__(self):
        import psutil

        self._process = psutil.Process()
        self.rows = []

    def __call__(self, name, function):
        """Call the function; return what it returns."""
        _settle()
        _forget_peak()
        before, peak_before = self.unique_bytes(), _peak_bytes()
        cpu, began = time.process_time(), time.perf_counter()
        result = function()
        numbers = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
        peak = _peak_bytes() - peak_before
        _settle()
        numbers |= {"kept_mb": (self.unique_bytes() - before) / MEGABYTE, "peak_mb": peak / MEGABYTE}
        self.rows.append({"stage": name, **{key: round(value, 4) for key, value in numbers.items()}})
        return result

    def unique_bytes(self):
        """Memory that only this process uses."""
        return self._process.memory_full_info().uss


def add_up(name, first, second):
    """Return two stages in a row as one: the second's peak is on top of what the first keeps."""
    sums = {key: round(first[key] + second[key], 4) for key in ("seconds", "cpu_seconds", "kept_mb")}
    peak = max(first["peak_mb"], first["kept_mb"] + second["peak_mb"])
    return {"stage": name, **sums, "peak_mb": round(peak, 4)}


def _settle():
    """Return free memory to the system, or a stage would be charged for the one before."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _forget_peak():
    """Reset the peak that Linux measures."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes():
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def measure(folder, methods, num_workers):
    """Return {"stages": rows, "workers_mb": memory of each worker} of one competition; run in its own process."""
    import torch

    from src.competition.folds import check_folds, make_folds
    from src.competition.image_files import check_not_empty
    from src.competition.tables import load_train_table, read_table
    from src.config.settings import Config
    from src.data.dataset import ImageDataset, build_loader
    from src.data.transforms import build_resize
    from src.evaluation.metrics import build_metric

    torch.set_num_threads(1)
    competition, meter, metric = _competition(folder), Meter(), build_metric("roc_auc", "binary")
    read_table(f"{folder}/train.csv").head()  # the first use of pandas does not depend on the size
    table = meter("table: CSV read, images found", lambda: load_train_table(competition))
    resize = build_resize(Config(image_size=SIZE))
    folds = np.arange(len(table)) % 5
    sides = [np.flatnonzero(folds != 0), np.flatnonzero(folds == 0)]

    def build():
        data = [ImageDataset(table.take(rows), competition, resize, 42) for rows in sides]
        return [build_loader(data[0], 32, num_workers, shuffle_seed=42), build_loader(data[1], 64, num_workers)]

    train_loader, val_loader = meter("datasets and loaders", build)
    meter.rows.append(add_up("both", *meter.rows))
    meter("sampler, first batch", lambda: next(iter(train_loader._sampler)))
    meter("sampler, an epoch", lambda: sum(len(keys) for keys in train_loader._sampler))
    meter("no image is empty", lambda: check_not_empty(table))
    for method in methods:
        rows = table if "group" in method else dataclasses.replace(table, groups=None)
        folds = meter(f"folds: {method}", lambda rows=rows, method=method: make_folds(rows, method, 5, 42, metric))
        meter("folds checked", lambda rows=rows, folds=folds: check_folds(rows, folds, metric))
    workers = _measure_workers(train_loader)
    val_loader.close()
    return {"stages": meter.rows, "workers_mb": workers, "num_groups": len(np.unique(pd.factorize(table.groups)[0]))}


def _measure_workers(loader):
    """Return the memory, in MB, that only each worker uses, in the middle of an epoch."""
    import psutil

    batches = loader.batches(0)
    for _ in range(min(20, len(loader) // 2)):
        next(batches)
    children = [one for one in psutil.Process().children() if "resource_tracker" not in " ".join(one.cmdline())]
    found = [round(one.memory_full_info().uss / MEGABYTE, 2) for one in children]
    for _ in batches if len(loader) < 50 else ():
        pass
    loader.close()
    return found


def run_sizes(sizes, folder, methods, num_workers):
    """Measure each size in its own process; return the rows of the report."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="scaling_", dir=folder or None) as root:
        for size in sizes:
            place = Path(root) / str(size)
            began = time.perf_counter()
            make_competition(place, size)
            print(f"{size:,} images linked in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "benchmarks.scaling", "measure", str(place), ",".join(methods)]
            done = subprocess.run([*command, str(num_workers)], capture_output=True, text=True, cwd=REPOSITORY)
            if done.returncode:
                raise UserError(f"rows={size}: {done.stderr.strip().splitlines()[-1]}")
            found = json.loads(done.stdout.splitlines()[-1])
            rows.append({"rows": size, **found})
            print(describe(rows[-1:]), flush=True)
            shutil.rmtree(place)
    return rows


def describe(rows):
    """Return the report's rows as text."""
    lines = [("rows", "stage", "seconds", "cpu s", "kept MB", "peak MB")]
    for row in rows:
        for one in row["stages"]:
            numbers = (f"{one['seconds']:.2f}", f"{one['cpu_seconds']:.2f}", *(f"{one[key]:.0f}" for key in _MEMORY))
            lines.append((f"{row['rows']:,}", one["stage"], *numbers))
        for number, size in enumerate(row["workers_mb"]):
            lines.append((f"{row['rows']:,}", f"worker {number + 1}", "", "", f"{size:.0f}", ""))
    return table_text(lines)


_MEMORY = ("kept_mb", "peak_mb")


def main(words):
    """Run the command line `words`."""
    if {"--help", "-h"} & set(words):
        print(USAGE)
        return
    if words[:1] == ["measure"]:
        print(json.dumps(measure(words[1], [one for one in words[2].split(",") if one], int(words[3]))))
        return
    with one_line_errors():
        given = read_words(words, DEFAULTS, "benchmarks.scaling", whole_numbers=("workers",), lists=("rows",))
        methods = [one for one in given["folds"].split(",") if one]
        rows = run_sizes(given["rows"], given["folder"], methods, given["workers"])
        command = ["python", "-m", "benchmarks.scaling", *words]
        targets = {"rows": 1_000_000, "seconds": 5, "kept_mb": 300, "worker_mb": 150}
        save_report(given["output"], rows, command, targets=targets)
        print(given["output"])


if __name__ == "__main__":
    main(sys.argv[1:])

"""Memory and speed of infer.py as the test rows grow: peak of the whole process tree, and seconds around the networks.

The images are hard links of small JPEGs as in benchmarks.scaling, the backbone is tiny: what is measured is all but it.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.report import read_words, save_report, table_text
from benchmarks.scaling import LINKS_PER_FILE, SIZE, make_ids
from src.config.settings import REPOSITORY
from src.errors import UserError, one_line_errors
from src.files import save_text

USAGE = """usage: python -m benchmarks.inference_scaling [key=value ...]
                                              [infer.KEY=VALUE ...]

  rows=1000,100000,1000000   test rows of each measurement; a million images take
                             a minute to link and to delete
  classes=2                  columns of the submission
  folds=1                    networks that predict
  processes=1                of torchrun; 1: python infer.py alone
  sample=true                a sample submission to fill, of as many rows
  folder=DIR                 for the images, deleted at the end; the system's
                             temporary folder if left out
  output=outputs/benchmarks/inference_scaling.json

Words that begin with infer., or are threads= or train.num_workers=, go to
infer.py. Target: less than 500 MB more at 1,000,000 rows of two classes than at
100,000.
"""

DEFAULTS = {
    "rows": "1000,100000,1000000", "classes": "2", "folds": "1", "processes": "1", "sample": "true", "folder": "",
    "output": "outputs/benchmarks/inference_scaling.json",
}  # fmt: skip
TARGET_MB = 500
MEGABYTE = 2**20
TRAIN_ROWS_PER_CLASS = 4


def make_competition(folder, num_rows, num_classes, with_sample=True, seed=0):
    """Write train.csv, test.csv, sample.csv and the images images/ab/ab12...jpg; return the competition's YAML file."""
    import cv2

    rng, folder = np.random.default_rng(seed), Path(folder)
    num_train = max(64, num_classes * TRAIN_ROWS_PER_CLASS)
    ids, names = make_ids(num_train + num_rows), [f"c{number}" for number in range(num_classes)]
    folder.mkdir(parents=True)
    folders, sources = set(), []
    for number in range(8):  # so that predictions differ
        sources.append(str(folder / f"source{number}_0.jpg"))
        cv2.imwrite(sources[-1], rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
    for row, one in enumerate(ids):
        source = row % len(sources)
        if row >= LINKS_PER_FILE and row % LINKS_PER_FILE < len(sources):
            copy = str(folder / f"source{source}_{row}.jpg")
            Path(copy).write_bytes(Path(sources[source]).read_bytes())
            sources[source] = copy
        place = f"{folder}/images/{one[:2]}"
        if place not in folders:
            os.makedirs(place)
            folders.add(place)
        os.link(sources[source], f"{place}/{one}.jpg")
    labels = [names[row % num_classes] for row in range(num_train)]
    pd.DataFrame({"id": ids[:num_train], "label": labels}).to_csv(folder / "train.csv", index=False)
    tests = pd.DataFrame({"id": ids[num_train:]})
    tests.to_csv(folder / "test.csv", index=False)
    if with_sample:
        with open(folder / "sample.csv", "w", encoding="utf-8") as file:
            file.write(",".join(["id", *names]) + "\n")
            rest = ",0.5" * num_classes + "\n"
            file.writelines(f"{one}{rest}" for one in ids[num_train:])
    image = "images/{id[0]}{id[1]}/{id}.jpg"
    competition = {
        "name": "rows", "root": str(folder), "train_table": "train.csv", "test_table": "test.csv", "train_image": image,
        "test_image": image, "label": "label", "task": "multiclass", "metric": "log_loss",
    }  # fmt: skip
    competition |= {"sample_submission": "sample.csv"} if with_sample else {}
    save_text(folder / "competition.yaml", json.dumps({"competition": competition}))
    return folder / "competition.yaml"


def train_run(competition, folder, num_folds):
    """Train a tiny network for a moment, which is enough to predict; return the run's folder."""
    words = [
        f"competition={competition}", "name=run", f"output_dir={folder}", f"num_folds={max(2, num_folds)}",
        "image_size=32", "model.backbone=simple_cnn", "model.pretrained=false", "train.epochs=1", "train.max_images=32",
        "infer.batch_size=256", "precision=fp32", "device=cpu", "threads=1", "tracking=none", "report=false",
        "cache=off", *(["fold=0"] if num_folds == 1 else []),
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "train.py", *words], cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"training failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return Path(folder) / "run"


def measure(run_folder, words, num_processes=1):
    """Run infer.py; return {"seconds", "peak_mb" of the tree, "main_mb" of its largest process}, resident memory."""
    import psutil

    launcher = [] if num_processes == 1 else ["-m", "torch.distributed.run", f"--nproc_per_node={num_processes}"]
    launcher += [] if num_processes == 1 else ["--standalone", "--no-python", sys.executable]
    command = [sys.executable, *launcher, "infer.py", f"run={run_folder}", "report=false", *words]
    began, peak, largest = time.perf_counter(), 0, 0
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            found = []
            for one in (tree, *tree.children(recursive=True)):
                with contextlib.suppress(psutil.Error):  # it has ended
                    found.append(one.memory_info().rss)
            peak, largest = max(peak, sum(found)), max([largest, *found])
            time.sleep(0.05)
        seconds = time.perf_counter() - began
        log.seek(0)
        printed = log.read().strip()
    if process.returncode:
        raise UserError(f"infer.py failed: {(printed or 'no message').splitlines()[-1]}")
    return {"seconds": seconds, "peak_mb": peak / MEGABYTE, "main_mb": largest / MEGABYTE}


def run_sizes(given, words):
    """Measure each number of rows with its own run; return the rows of the report."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="inference_scaling_", dir=given["folder"] or None) as root:
        for size in given["rows"]:
            place = Path(root) / str(size)
            competition = make_competition(place, size, given["classes"], given["sample"] == "true")
            run_folder = train_run(competition, place / "outputs", given["folds"])
            found = measure(run_folder, words, given["processes"])
            size_mb = (run_folder / "submission.csv").stat().st_size / MEGABYTE
            rows.append({"rows": size, **found, "submission_mb": size_mb})
            print(describe(rows[-1:]), flush=True)
            subprocess.run(["rm", "-rf", str(place)], check=True)
    return rows


def describe(rows):
    """Return the report's rows as text."""
    lines = [("rows", "seconds", "rows/s", "peak MB", "largest process MB", "submission MB")]
    for row in rows:
        numbers = (f"{row[key]:.0f}" for key in ("peak_mb", "main_mb", "submission_mb"))
        lines.append((f"{row['rows']:,}", f"{row['seconds']:.1f}", f"{row['rows'] / row['seconds']:.0f}", *numbers))
    return table_text(lines)


def main(words):
    """Run the command line `words`."""
    if {"--help", "-h"} & set(words):
        print(USAGE)
        return
    with one_line_errors():
        passed = [word for word in words if word.startswith(("infer.", "threads=", "train.num_workers="))]
        own = [word for word in words if word not in passed]
        numbers = ("classes", "folds", "processes")
        given = read_words(own, DEFAULTS, "benchmarks.inference_scaling", whole_numbers=numbers, lists=("rows",))
        rows = run_sizes(given, passed or ["threads=1"])
        command = ["python", "-m", "benchmarks.inference_scaling", *words]
        save_report(given["output"], rows, command, settings=given, target_mb=TARGET_MB)
        print(given["output"])


if __name__ == "__main__":
    main(sys.argv[1:])

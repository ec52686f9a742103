"""Images/s of training with one process and with two: one fold over both, two folds in parallel, two threads.

Each case is train.py as a person runs it, on the embedded competition; the images/s are those of fold<k>/log.csv: the
median of all epochs but the first, which begins cold. Cases take turns, so that other load meets all of them.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import read_words, save_report, spread, summarize, table_text
from src.config.settings import REPOSITORY
from src.errors import UserError, one_line_errors

USAGE = """usage: python -m benchmarks.processes [key=value ...]

  model.backbone=mobilenetv2_100   from scratch
  image_size=64
  train.batch_size=32              of each process; divided: of both together
  train.max_images=768             of a fold
  train.epochs=4                   of which the first does not count
  repeats=3
  folder=DIR                       for the runs, deleted at the end; the
                                   system's temporary folder if left out
  output=outputs/benchmarks/processes.json

Efficiency is images/s over those of as many processes as one alone would have:
1 is twice as fast with two.
"""

DEFAULTS = {
    "model.backbone": "mobilenetv2_100", "image_size": "64", "train.batch_size": "32", "train.max_images": "768",
    "train.epochs": "4", "repeats": "3", "folder": "", "output": "outputs/benchmarks/processes.json",
}  # fmt: skip
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
CASES = {  # name: (words before train.py, [words of each command that runs beside the others], torch's threads)
    "one process": ((), [("fold=0",)], 1),
    "two processes, one fold (torchrun)": (TORCHRUN, [("fold=0",)], 1),
    "the same, the batch divided": (TORCHRUN, [("fold=0", "half")], 1),
    "two folds in parallel": ((), [("fold=0",), ("fold=1",)], 1),
    "one process, two threads": ((), [("fold=0",)], 2),
}


def run_case(name, given, folder):
    """Return the images/s of a case, of all its commands together."""
    launcher, commands, threads = CASES[name]
    shared = [f"{key}={value}" for key, value in given.items() if "." in key or key == "image_size"]
    shared += ["model.pretrained=false", "precision=fp32", "tracking=none", "report=false", "device=cpu", "name=run"]
    half = f"train.batch_size={max(1, given['train.batch_size'] // 2)}"
    begun = []
    shutil.rmtree(folder / "outputs/run", ignore_errors=True)
    for words in commands:
        words = [half if word == "half" else word for word in words]
        command = [sys.executable, *launcher, str(REPOSITORY / "train.py"), *shared, f"threads={threads}", *words]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(threads)}
        begun.append(subprocess.Popen(command, cwd=folder, env=environment, text=True,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))  # fmt: skip
    for process in begun:
        said = process.communicate()[1]
        if process.returncode:
            raise UserError(f"{name}: {(said.strip().splitlines() or ['no line'])[-1]}")
    return sum(read_speed(folder / f"outputs/run/fold{number}/log.csv") for number in range(len(commands)))


def read_speed(log):
    """Return the median images/s of a fold's epochs but the first."""
    import pandas as pd  # here, as it takes half a second

    return statistics.median(pd.read_csv(log)["images_per_second"][1:])


def describe(rows):
    """Return the cases' images/s, and what they are of twice one process's, as text."""
    alone = spread(next(row["images_per_second"] for row in rows if row["case"] == "one process"))["median"]
    lines = [("case", "images/s", "times one process", "efficiency")]
    for row in rows:
        times = spread(row["images_per_second"])["median"] / alone
        efficiency = "" if row["case"] == "one process" else f"{times / 2:.2f}"
        lines.append((row["case"], summarize(row["images_per_second"], 0), f"{times:.2f}", efficiency))
    return table_text(lines)


def main(words):
    """Run the command line `words`."""
    if {"--help", "-h"} & set(words):
        print(USAGE)
        return
    with one_line_errors():
        numbers = ("image_size", "train.batch_size", "train.max_images", "train.epochs", "repeats")
        given = read_words(words, DEFAULTS, "benchmarks.processes", whole_numbers=numbers)
        if given["train.epochs"] < 2:
            raise UserError("train.epochs=1: the first epoch does not count; set train.epochs=2 or more")
        found = {name: [] for name in CASES}
        with tempfile.TemporaryDirectory(prefix="processes_", dir=given["folder"] or None) as folder:
            for number in range(given["repeats"]):
                names = list(CASES) if number % 2 == 0 else list(CASES)[::-1]
                for name in names:
                    found[name].append(run_case(name, given, Path(folder)))
                    print(f"{number + 1} of {given['repeats']}, {name}: {found[name][-1]:.0f}", flush=True)
        rows = [{"case": name, "images_per_second": values} for name, values in found.items()]
        save_report(given["output"], rows, ["python", "-m", "benchmarks.processes", *words], settings=given)
        print(f"\n{describe(rows)}\n{given['output']}")


if __name__ == "__main__":
    main(sys.argv[1:])

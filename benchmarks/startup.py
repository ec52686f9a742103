"""Startup time: help, an error message, and the first training step on the embedded competition.

A program runs as a user runs it, in a fresh process and an empty folder; for the first step a child process runs
train.py and records when its functions are reached.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import read_words, save_report, spread, summarize, table_text
from src.config.settings import REPOSITORY
from src.errors import UserError, one_line_errors

USAGE = """usage: python -m benchmarks.startup [key=value ...]

  repeats=5         of each measurement, in turns, after one that warms up the disk cache
  tracking=auto     as for train.py; wandb runs offline
  output=outputs/benchmarks/startup.json

Targets: help and error messages in .5 s; the first step in 8 s, of which our own code takes less than 1 s.
"""

DEFAULTS = {"repeats": "5", "tracking": "auto", "output": "outputs/benchmarks/startup.json"}
TARGETS = {"message": 0.5, "first step": 8.0, "own code": 1.0}
MESSAGES = {
    "train.py --help": ("train.py", "--help"),
    "infer.py --help": ("infer.py", "--help"),
    "train.py with an unknown setting": ("train.py", "optimizer.lrr=1"),
    "train.py with a value out of range": ("train.py", "train.epochs=0"),
    "infer.py without a run": ("infer.py", "run=nowhere"),
}
# what is measured apart from our own code: {name: (module of src.training, its function)}
TIMED = {
    "wandb started": ("run", "build_tracker"),
    "demo written": ("run_data", "write_demo"),
    "precision timed": ("run", "choose_precision"),
}


class FirstStepDone(BaseException):
    """Ends the child's training after its first step; a BaseException, so that nothing catches it."""


def time_message(words):
    """Return the seconds from the start of a program to its end."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        done = subprocess.run([sys.executable, str(REPOSITORY / words[0]), *words[1:]], cwd=folder, capture_output=True)
        seconds = time.perf_counter() - began
    if done.returncode not in (0, 2) or b"Traceback" in done.stderr:
        raise UserError(f"{' '.join(words)}: printed no message; {done.stderr.decode().strip()[-300:]}")
    return seconds


def time_first_step(tracking):
    """Return {stage: seconds} of one training up to its first step, in its own process and folder."""
    with tempfile.TemporaryDirectory(prefix="startup_") as folder:
        out = Path(folder) / "moments.json"
        environment = os.environ | {"WANDB_MODE": "offline", "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "benchmarks.startup", "child", str(out), repr(time.time()), tracking]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if not out.is_file():
            raise UserError(f"train.py: made no step; {(done.stderr.strip() or 'no message').splitlines()[-1]}")
        return compute_stages(json.loads(out.read_text(encoding="utf-8")))


def compute_stages(moments):
    """Return {stage: seconds} from what a child has recorded.

    Args:
        moments: seconds since the start at which python ran, imports began and ended and the first step was done, and
            the seconds that each of TIMED took.
    """
    stages = {"python itself": moments["python"], "imports": moments["imported"] - moments["importing"]}
    stages |= {stage: moments[stage] for stage in TIMED}
    return stages | {"own code": moments["first step"] - sum(stages.values()), "first step": moments["first step"]}


def run_child(out, began, tracking):
    """Run train.py and write the moments; run in its own process."""
    moments = {"python": time.time() - began} | dict.fromkeys(TIMED, 0.0)
    moments["importing"] = time.time() - began
    import train
    from src.training.tracking import import_early

    import_early([] if tracking == "none" else [tracking])  # as train.py does, before torch
    import src.training.fold as fold
    import src.training.run  # noqa: F401  with all that a run needs

    moments["imported"] = time.time() - began

    def timed(name, function):
        def call(*words, **named):
            start = time.time()
            result = function(*words, **named)
            moments[name] += time.time() - start
            return result

        return call

    train_one_epoch = fold.train_one_epoch

    def train_one_step(learner, *words, **named):
        step = learner.optimizer.step

        def step_once(*given, **more):
            step(*given, **more)
            moments["first step"] = time.time() - began
            Path(out).write_text(json.dumps(moments), encoding="utf-8")
            raise FirstStepDone

        learner.optimizer.step = step_once
        return train_one_epoch(learner, *words, **named)

    fold.train_one_epoch = train_one_step
    for name, (module, function) in TIMED.items():
        module = sys.modules[f"src.training.{module}"]
        setattr(module, function, timed(name, getattr(module, function)))
    with contextlib.suppress(FirstStepDone):
        train.main([f"tracking={tracking}"])


def run_benchmark(repeats, tracking):
    """Return the report's rows {"what", "kind", "seconds": [...]}: of each message and each stage of the first step."""
    messages, stages = {name: [] for name in MESSAGES}, {}
    for repeat in range(repeats + 1):
        found = {name: time_message(words) for name, words in MESSAGES.items()}
        steps = time_first_step(tracking)
        if repeat == 0:
            continue
        for name, seconds in found.items():
            messages[name].append(seconds)
        for name, seconds in steps.items():
            stages.setdefault(name, []).append(seconds)
    return [
        *({"what": name, "kind": "message", "seconds": seconds} for name, seconds in messages.items()),
        *({"what": name, "kind": "training", "seconds": seconds} for name, seconds in stages.items()),
    ]


def describe(rows):
    """Return the report's rows as text."""
    lines = [("what", "median (min..max), s", "target")]
    for row in rows:
        target = TARGETS["message"] if row["kind"] == "message" else TARGETS.get(row["what"])
        is_met = target is not None and spread(row["seconds"])["median"] < target
        verdict = "" if target is None else f"{target} {'met' if is_met else 'MISSED'}"
        indent = "  " if row["kind"] == "training" and row["what"] != "first step" else ""
        lines.append((indent + row["what"], summarize(row["seconds"]), verdict))
    return table_text(lines)


def main(words):
    """Run the command line `words`."""
    if {"--help", "-h"} & set(words):
        print(USAGE)
        return
    if words[:1] == ["child"]:
        run_child(words[1], float(words[2]), words[3])
        return
    with one_line_errors():
        given = read_words(words, DEFAULTS, "benchmarks.startup", whole_numbers=("repeats",))
        rows = run_benchmark(given["repeats"], given["tracking"])
        print(describe(rows))
        command = ["python", "-m", "benchmarks.startup", *words]
        save_report(given["output"], rows, command, targets=TARGETS, tracking=given["tracking"])
        print(given["output"])


if __name__ == "__main__":
    main(sys.argv[1:])

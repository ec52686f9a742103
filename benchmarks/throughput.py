"""Training throughput of this project, its peers and the limit: the same work in turns, each in a fresh process.

Repetition k runs every system of a case once, each time beginning with another one, so that a ratio compares
neighbours in time; the table holds the ratios' median and spread. Peers are tried first with several numbers of loader
workers, and get the fastest.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import joblib

from benchmarks.report import save_report
from benchmarks.throughput_cases import CASES, SYSTEMS, prepare
from benchmarks.throughput_report import compute_measures, compute_ratios, report_text
from src.config.settings import REPOSITORY
from src.errors import UserError, listing, nearest, one_line_errors

USAGE = """usage: python -m benchmarks.throughput [key=value ...]

  case=NAME,...      pneumonia, datapath, large or gpu; all that can run here if left out
  repetitions=3      of each system
  systems=NAME,...   only these, ours first; options may follow: lightning:num_workers=0:channels_last=false
  images=N           to train on; the case's own number if left out
  epochs=N           the case's own number if left out
  device=auto        cuda or cpu
  output=FILE.json   outputs/benchmarks/throughput.json if left out

The peers: pip install -r benchmarks/requirements.txt; one that is not installed is left out. Images and weights of
pneumonia are in the folder that the environment variable SHARED names.
"""
PEERS = ("lightning", "fastai", "torchvision_loader")  # each gets its fastest num_workers
TRIAL = -1  # the repetition of runs that only choose num_workers
_PACKAGES = ("lightning", "fastai", "torchvision", "torchmetrics", "pillow")
_OPTIONS = ("num_workers", "channels_last", "precision")


@dataclasses.dataclass(frozen=True)
class Words:
    """What the command line asks for."""

    cases: tuple = ()
    systems: tuple = ()
    repetitions: int = 3
    images: int | None = None
    epochs: int | None = None
    device: str = "auto"
    output: Path = Path("outputs/benchmarks/throughput.json")


def read_words(words):
    """Return the Words of a command line.

    Raises:
        UserError: a word is wrong.
    """
    read = {"case": _read_cases, "systems": _read_systems, "device": str, "output": Path}
    read |= dict.fromkeys(("repetitions", "images", "epochs"), _read_count)
    found = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or key not in read:
            raise UserError(f"command line: unknown word {word!r}{nearest(key, read)}; the words are {listing(read)}")
        found["cases" if key == "case" else key] = read[key](value)
    if found.get("device", "auto") not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={found['device']}: not one of auto, cpu, cuda")
    return Words(**found)


def _read_count(value):
    if not value.isdigit() or int(value) == 0:
        raise UserError(f"command line: {value!r} is not a whole number from 1; write for example repetitions=3")
    return int(value)


def _read_cases(value):
    names = tuple(value.split(","))
    for name in names:
        if name not in CASES:
            raise UserError(f"case={name}: no such case{nearest(name, CASES)}; the cases are {listing(CASES)}")
    return names


def _read_systems(value):
    labels = tuple(value.split(","))
    for label in labels:
        name, *options = label.split(":")
        if name not in SYSTEMS:
            raise UserError(f"systems={name}: no such system{nearest(name, SYSTEMS)}; they are {listing(SYSTEMS)}")
        for option in options:
            key = option.partition("=")[0]
            if key not in _OPTIONS:
                raise UserError(f"systems={label}: no option {key!r}; the options are {listing(_OPTIONS)}")
    return labels


def choose_cases(words, has_cuda):
    """Return the names of the cases to run.

    Raises:
        UserError: a case was asked for that needs a GPU, and there is none.
    """
    for name in words.cases:
        if CASES[name].needs_cuda and not has_cuda:
            raise UserError(f"case={name}: needs a CUDA device; leave it out")
    return words.cases or [name for name, case in CASES.items() if has_cuda or not case.needs_cuda]


def choose_systems(case, asked):
    """Return the labels of a case's systems that are asked for (all: ()) and installed."""
    labels = [label for label in asked if _name(label) in case.systems] if asked else case.systems
    found = []
    for label in labels:
        package = SYSTEMS[_name(label)][1]
        if find_spec(package):
            found.append(label)
        else:
            text = f"{label}: left out, {package} is not installed; pip install -r benchmarks/requirements.txt"
            print(text, file=sys.stderr)
    return found


def run_case(name, words):
    """Run every system of a case in turns; yield each run as it ends, trials of num_workers first.

    Raises:
        UserError: the images or weights are missing.
    """
    case, execution = CASES[name], {}
    labels = choose_systems(case, words.systems)
    with tempfile.TemporaryDirectory(prefix="throughput_") as folder:
        task = case.settings | {"device": words.device} | prepare(case, words.images, Path(folder))
        task |= {"epochs": words.epochs} if words.epochs else {}
        options = {label: dict(map(_read_option, label.split(":")[1:])) for label in labels}
        for label in labels:
            if _name(label) in PEERS and "num_workers" not in options[label]:
                trials = list(try_workers(label, task | options[label]))
                yield from ({"case": name, **trial} for trial in trials)
                options[label]["num_workers"] = fastest_workers(trials)
        for repetition in range(words.repetitions):
            first = repetition % max(1, len(labels))
            for label in labels[first:] + labels[:first]:
                own = {"seed": 42 + repetition} | options[label]
                if _name(label) == "pure_compute":
                    own |= execution
                run = run_system(_name(label), task | own)
                if _name(label) == "ours" and "error" not in run:
                    execution = {key: run[key] for key in ("precision", "channels_last")}
                yield {"case": name, "repetition": repetition, "system": label, **run, "task": task | own}


def try_workers(label, task):
    """Yield a run of one epoch for each number of loader workers that a peer's user would try on this machine."""
    cores = joblib.cpu_count()
    for num_workers in sorted({0, 1, cores // 2, cores}):
        own = task | {"seed": 41, "epochs": 1, "num_workers": num_workers}
        yield {"repetition": TRIAL, "system": label, **run_system(_name(label), own), "task": own}


def fastest_workers(trials):
    """Return the num_workers of the fastest trial; None where all failed."""
    done = [trial for trial in trials if "error" not in trial]
    return min(done, key=lambda trial: trial["seconds"])["task"]["num_workers"] if done else None


def _name(label):
    """lightning:num_workers=2 -> lightning."""
    return label.partition(":")[0]


def _read_option(option):
    """num_workers=0 -> ("num_workers", 0)."""
    key, _, value = option.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def run_system(system, task):
    """Run one system in a fresh process and a fresh folder; return what it measured, or {"error": its last line}."""
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.systems.{SYSTEMS[system][0]}", json.dumps(task)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    before = _cpu_seconds()
    with tempfile.TemporaryDirectory(prefix="throughput_") as folder:
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1], "stderr": done.stderr[-4000:]}
    run = json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))
    return run | {"cpu_seconds": _cpu_seconds() - before, "measures": compute_measures(run)}


def _cpu_seconds():
    """Return the CPU seconds of all finished child processes, which a busy machine changes less than the clock's."""
    times = os.times()
    return times.children_user + times.children_system


def _print_progress(run, words):
    """Print a line of progress."""
    result = run.get("error") or f"{run['measures']['seconds']:.1f} s"
    turn = f"{run['repetition'] + 1}/{words.repetitions}"
    if run["repetition"] == TRIAL:
        turn = f"trial of num_workers={run['task']['num_workers']}"
    where = f"{run['case']} {turn} {run['system']}"
    print(f"{where}: {result}", file=sys.stderr, flush=True)


def run_cases(words, command):
    """Run the cases that are asked for; write the report after each run; return all runs by case.

    Raises:
        UserError: a case that was asked for by name cannot run here.
    """
    import torch  # here, since it takes seconds and a typo should not

    runs = {}
    for name in choose_cases(words, words.device != "cpu" and torch.cuda.is_available()):
        try:
            for run in run_case(name, words):
                runs.setdefault(name, []).append(run)
                _print_progress(run, words)
                _save(words.output, runs, command)
        except UserError as error:
            if words.cases:
                raise
            print(f"{name}: left out, {error}", file=sys.stderr)
    return runs


def _save(path, runs, command):
    ratios = {name: compute_ratios(of_case, CASES[name]) for name, of_case in runs.items()}
    peers = {name: version(name) for name in _PACKAGES if find_spec(name.replace("pillow", "PIL"))}
    save_report(path, [run for of_case in runs.values() for run in of_case], command, ratios=ratios, peers=peers)


def main(words):
    """Run the command line `words`."""
    if {"--help", "-h"} & set(words):
        print(USAGE)
        return
    with one_line_errors():
        asked = read_words(words)
        runs = run_cases(asked, ["python", "-m", "benchmarks.throughput", *words])
    for name, of_case in runs.items():
        print(f"\n{report_text(name, of_case, CASES[name])}")
    print(f"\n{asked.output}")
    if any("error" in run for of_case in runs.values() for run in of_case):
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])

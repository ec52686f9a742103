"""The runs of a command: of each seed one, trained one after another or as jobs beside each other, and their spread."""

import math
import os
import signal
from contextlib import ExitStack, contextmanager

import numpy as np
from accelerate.state import PartialState

from src.checkpointing.interrupts import Interrupts
from src.checkpointing.run_folder import RunFolder
from src.config.settings import seconds_of
from src.device import share_machine
from src.errors import Stopped, UserError, listing
from src.evaluation.judgement import describe_interval
from src.files import load_json
from src.launchers import Job, LocalLauncher
from src.training.run import check_run, end_run, open_folder, start_processes, train_run
from src.training.tracking import build_tracker


def train_runs(configs, commands):
    """Train runs within one time budget: a Config and the words of its own command line for each.

    Of several, what ends one names it, and at the end their scores are printed.
    """
    first = configs[0]
    interrupts = Interrupts(first.checkpoint_minutes, seconds_of(first.time_budget), first.overwrite)
    try:
        if _launches(configs):
            with interrupts.handle_signals(), ExitStack() as locks:
                _train_beside(configs, commands, interrupts, locks)
        else:
            for config, words in zip(configs, commands, strict=True):
                with _naming(config, configs):
                    train_run(config, words, interrupts)
    except Stopped:
        _print_seeds(configs)
        raise
    _print_seeds(configs)
    PartialState().destroy_process_group()


@contextmanager
def _naming(config, configs):
    """Print, of several runs, which one begins; what ends the block names it."""
    if len(configs) == 1:
        yield
        return
    number = [one.seed for one in configs].index(config.seed) + 1  # opening a run has settled others of its settings
    where = f"seed {config.seed} ({number} of {len(configs)}, {config.run_folder})"
    if os.environ.get("RANK", "0") == "0":
        print(f"\n{where}", flush=True)
    try:
        yield
    except (UserError, Stopped) as error:
        error.args = (f"{where}: {str(error).strip()}",)
        raise


def _launches(configs):
    """Whether the folds are to be trained by a launcher: of Ray, or of several slots where there are several folds."""
    first, num_folds = configs[0], sum(1 if config.fold is not None else config.num_folds for config in configs)
    if first.launcher == "ray" or "WORLD_SIZE" in os.environ or num_folds == 1:
        return first.launcher == "ray" and "WORLD_SIZE" not in os.environ
    if (is_several := build_launcher(first).num_slots > 1) or not first.launcher:
        return is_several
    found = f"device={first.device} with threads={first.threads or 'null'} has room for one"
    advice = "on a CPU every N cores train one with threads=N"
    print(f"launcher=local: one fold after another, as {found}; {advice}", flush=True)
    return False


def build_launcher(config):
    """Return the launcher that a Config asks for: of Ray's tasks, or of processes on this machine."""
    if config.launcher == "ray":
        from src.ray_launcher import RayLauncher  # here, since it takes seconds and is optional

        return RayLauncher(config)
    return LocalLauncher(*share_machine(config))


def _train_beside(configs, commands, interrupts, locks):
    """Train the unfinished folds of runs as jobs of a launcher, then score them; `locks` holds the folds until then."""
    runs, reasons, stopped = [], [], None
    with interrupts.alarm():
        for config, words in zip(configs, commands, strict=True):
            with _naming(config, configs):
                runs.append(check_run(config, words, interrupts, start_processes(config, "cpu")))

    with build_launcher(configs[0]) as launcher:
        with interrupts.alarm():
            for run in runs:
                run.jobs_on = launcher.device
                with _naming(run.config, configs):
                    open_folder(run, locks)
        prefix = "" if len(runs) == 1 else "seed {0.config.seed} "
        folds = {f"{prefix.format(run)}fold {fold}": (run, fold) for run in runs for fold in run.unfinished}
        if folds:
            print(f"\n{len(folds)} folds, {min(len(folds), launcher.num_slots)} at a time", flush=True)
        with interrupts.deferred():
            jobs = _list_jobs(folds, interrupts)
            for job, status, line in launcher.run(jobs, lambda: reasons or interrupts.stop_reason()):
                reasons.extend(_report_end(*folds[job.name], job, status, line))
    if left := [name for name, (run, fold) in folds.items() if not run.folder.fold(fold).is_finished()]:
        why, status = interrupts.stop_reason() or reasons[0]
        stopped = Stopped(f"{listing(left)}: not finished, stopped by {why}; {interrupts.again} resumes", status)
    for run in runs:
        with _naming(run.config, configs):
            if run.unfinished:
                run.tracker = build_tracker(run.config)
            end_run(run, stopped)
    if stopped:
        raise stopped


def _list_jobs(folds, interrupts):
    """Yield the jobs of {name: (Run, fold)}; of the time budget each gets what is left when it starts."""
    for name, (run, fold) in folds.items():
        seconds, log = interrupts.seconds_left(), run.folder.fold(fold).printed
        budget = [] if seconds == math.inf else [f"time_budget={max(seconds, 1):.0f}s"]
        print(f"{name}: started; {log} has what it prints", flush=True)
        words = (*run.words, f"fold={fold}", "report=false", "track_checkpoints=false", *budget)
        yield Job(name, words, log, run.folder.path)


def _report_end(run, fold, job, status, line):
    """Print how a job has ended, `line` is its last; return [(why it was stopped, exit status)] or, finished, [].

    Raises:
        UserError: what has ended it, and where its log is.
    """
    folder = run.folder.fold(fold)
    if folder.is_finished():
        meta = load_json(folder.meta, "best_score", "last_score", "seconds")
        score = meta[f"{run.config.train.select}_score"]
        shown = "" if score is None else f"{run.metric.name} {score:.5f}, "
        print(f"{job.name}: {shown}{meta['seconds']:.1f} s", flush=True)
        if line.startswith("wandb sync"):
            print(line)
        return []
    is_stopped = status in (0, 143, -signal.SIGTERM)  # the last of them where it was still importing
    is_told = is_stopped or status == 2
    is_killed = status == -signal.SIGKILL
    died = "killed, most often as memory ran out" if is_killed else f"crashed with exit status {status}"
    what = line.removeprefix("error: ") if is_told else f"{died} ({line})"
    what = what if what.startswith(job.name) else f"{job.name}: {what}"
    if not is_stopped:
        raise UserError(f"{what}; {job.log} has all that it printed")
    print(what, flush=True)
    return [("a signal to its process", 143) if status else ("the end of time_budget", 0)]


def _print_seeds(configs):
    """Print a line for each of several seeds with its score and interval, and the mean and spread of those scores."""
    if len(configs) == 1 or os.environ.get("RANK", "0") != "0":
        return
    pooled, folders = [], [str(config.run_folder) for config in configs]
    print(f"\n{configs[0].competition.metric} by seed, out-of-fold")
    for config in configs:
        found = "no fold is done"
        if (path := RunFolder(config.run_folder).scores).is_file():
            scores = load_json(path, "pooled", "folds", "interval")
            pooled.append(scores["pooled"])
            interval = describe_interval(scores["interval"])
            found = f"{pooled[-1]:.5f}, 95 % {interval}, folds {', '.join(scores['folds'])}"
        print(f"  seed {config.seed}: {found}")
    if len(pooled) > 1:
        print(f"mean {np.mean(pooled):.5f}, standard deviation {np.std(pooled, ddof=1):.5f} over {len(pooled)} seeds")
    if len(pooled) == len(configs):
        name = configs[0].run_folder.name.removesuffix(f"_seed{configs[0].seed}")
        print(f"next: python infer.py run={folders[0]} (so each of them), then their blend:")
        print(f"python -m tools.blend {' '.join(folders)} name={name}_seeds")

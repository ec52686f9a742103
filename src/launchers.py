"""Starts train.py as processes beside each other, each on its share of the machine; ray_launcher.py: as Ray's tasks."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from src.config.settings import REPOSITORY
from src.errors import Stopped

_JOINED = "JOINED_RUN"  # environment variable of a job: the folder of the run, open already, whose fold it trains
_OF_A_SWEEP = ("WANDB_SWEEP_ID", "WANDB_RUN_ID")  # whose run at wandb is the whole command's
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Job:
    """One process of train.py."""

    name: str  # "fold 0", "trial 3": begins what is printed of it
    words: tuple[str, ...]  # key=value words of train.py, fold=0 among them; no launcher=, ray_address=, overwrite=
    log: Path  # what it prints is appended to this file
    run_folder: Path | str = ""  # of a run that is open, whose precision it takes; "": it opens its own


class LocalLauncher:
    """Runs each job as a process in one of this machine's slots; a context manager, whose end stops and awaits them.

    slots: the environment variables of each; words: of train.py, which each job gets too; device: cpu, cuda or mps.
    """

    def __init__(self, slots, words=(), device="cpu"):
        self.device, self.num_slots, self._free = device, len(slots), list(slots)
        self._words = (*words, "launcher=null", "ray_address=null", "overwrite=false")  # YAML files may set them
        self._running, self._stopped = {}, set()  # {Job: (its process, slot)}; Jobs

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        is_asked = kind in (Stopped, KeyboardInterrupt)
        try:
            for job, (process, _) in self._running.items():  # who asks a second time does not wait
                process.kill() if is_asked and job in self._stopped else self.stop(job)
            while self._running:
                self._take_ended()
                time.sleep(_POLL_SECONDS)
        except BaseException:
            for process, _ in self._running.values():
                process.kill()
            raise

    def run(self, jobs, is_stopping=lambda: False):
        """Run jobs, as many at a time as there are slots; yield (job, exit status, last line of its log) as they end.

        Args:
            jobs: an iterable, asked for the next one when a slot is free; None: none until a job has ended.
            is_stopping: asked several times a second; once true, no job starts and all are stopped.
        """
        jobs = iter(jobs)
        while True:
            if is_stopping():
                jobs = iter(())
                for job in self._running:
                    self.stop(job)
            while self._free and (job := next(jobs, None)) is not None:
                slot = self._free.pop(0)
                self._running[job] = self._start((*job.words, *self._words), job, slot), slot
            if not self._running:
                return
            time.sleep(_POLL_SECONDS)
            for job, status in self._take_ended():
                yield job, status, read_last_line(job.log)

    def stop(self, job):
        """Ask a job, once and while it runs, to save and to end."""
        if job in self._running and job not in self._stopped:
            self._stopped.add(job)
            self._running[job][0].terminate()

    def _take_ended(self):
        """Return [(job, exit status, below 0 that of a signal)] of those that have ended; their slots are free."""
        ended = [(job, process.poll()) for job, (process, _) in self._running.items()]
        ended = [(job, status) for job, status in ended if status is not None]
        self._free += [self._running.pop(job)[1] for job, _ in ended]
        return ended

    def _start(self, words, job, slot):
        return start_process(words, job.log, job.run_folder, os.environ | slot)


def is_job():
    """Whether a launcher has started this process."""
    return _JOINED in os.environ


def is_joining(run_folder):
    """Whether this process is a job that trains a fold of a run which its launcher has opened and will score."""
    return os.environ.get(_JOINED) == str(run_folder)


def start_process(words, log, run_folder, environment, working_folder=None):
    """Start train.py as a job; it saves and ends when its parent does, and gets no Ctrl-C from a terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in environment.items() if name not in _OF_A_SWEEP}
    kept |= {_JOINED: str(run_folder), "PYTHONUNBUFFERED": "1"}  # or an error would stand before what led to it
    end_with_parent = lambda: ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # noqa: E731  PR_SET_PDEATHSIG of linux/prctl.h
    with log.open("a") as file:
        return subprocess.Popen(
            [sys.executable, str(REPOSITORY / "train.py"), *words], env=kept,
            cwd=working_folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            preexec_fn=end_with_parent if sys.platform == "linux" else None,
        )  # fmt: skip


def read_last_line(path):
    """Return the last line of a log that is not blank, or "no output"."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")

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
    run_folder: Path | None = None  # of a run that is open, whose precision it takes; None: it opens its own


class LocalLauncher:
    """Runs each job as a process in one of this machine's slots; a context manager, whose end stops and awaits them.

    slots: the environment variables of each; words: of train.py, that each job gets beside its own.
    """

    def __init__(self, slots, words=()):
        self.num_slots, self._free, self._slots = len(slots), list(slots), {}
        self._words = (*words, "launcher=null", "ray_address=null", "overwrite=false")  # YAML files may set them
        self._running, self._stopped = [], []

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        is_asked_again = kind in (Stopped, KeyboardInterrupt) and self._stopped
        try:
            for handle in self._running:
                self._kill(handle) if is_asked_again else self.stop(handle)
            while self._running:
                for handle in list(self._running):
                    self.poll(handle)
                time.sleep(_POLL_SECONDS)
        except BaseException:
            for handle in self._running:
                self._kill(handle)
            raise

    def start(self, job):
        """Start a job in a free slot; return its handle."""
        slot = self._free.pop(0)
        handle = self._start(job, slot)
        self._running.append(handle)
        self._slots[handle] = slot
        return handle

    def poll(self, handle):
        """Return the exit status of a job, below 0 that of a signal; None while it runs."""
        status = self._poll(handle)
        if status is not None and handle in self._running:
            self._running.remove(handle)
            self._free.append(self._slots.pop(handle, None))
        return status

    def stop(self, handle):
        """Ask a job, once, to save and to end."""
        if handle in self._running and handle not in self._stopped:
            self._stopped.append(handle)
            self._terminate(handle)

    def _start(self, job, slot):
        return start_process([*job.words, *self._words], job.log, os.environ | describe(job) | slot)

    def _poll(self, handle):
        return handle.poll()

    def _terminate(self, handle):
        handle.terminate()

    def _kill(self, handle):
        handle.kill()


def describe(job):
    """Return the environment variable by which a job knows that it is one, and which run it joins."""
    return {_JOINED: str(job.run_folder or "")}


def is_job():
    """Whether a launcher has started this process."""
    return _JOINED in os.environ


def is_joining(run_folder):
    """Whether this process is a job that trains a fold of a run which its launcher has opened and will score."""
    return os.environ.get(_JOINED) == str(run_folder)


def start_process(words, log, environment, folder=None):
    """Start train.py in a folder; it saves and ends when its parent does, and gets no Ctrl-C from a terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in environment.items() if name not in _OF_A_SWEEP}
    how = {"preexec_fn": _end_with_parent} if sys.platform == "linux" else {}
    with log.open("a") as file:
        return subprocess.Popen(
            [sys.executable, str(REPOSITORY / "train.py"), *words], stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT, env=environment, cwd=folder, start_new_session=True, **how,
        )  # fmt: skip


def _end_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG of linux/prctl.h


def build_launcher(config):
    """Return the launcher of a Config: of Ray, or of this machine's GPUs, each a slot, or of a CPU's cores.

    On a CPU launcher=local takes `threads` of the cores for each slot, and there is one slot otherwise.
    """
    if config.launcher == "ray":
        from src.ray_launcher import RayLauncher  # here, since it takes seconds and is optional

        return RayLauncher(config)
    import joblib  # here, since most commands that import this module start nothing
    import torch

    gpus, cores = list_gpus(config.device), joblib.cpu_count()
    is_cpu = config.device == "cpu" or (config.device == "auto" and not gpus and not torch.backends.mps.is_available())
    slots = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}]
    if is_cpu and config.launcher == "local" and config.threads:
        slots *= max(1, cores // config.threads)
    num_workers = cores // len(slots) // 4 if is_cpu else min(cores // len(slots), 8)
    is_shared = len(slots) > 1 and config.train.num_workers is None
    return LocalLauncher(slots, [f"train.num_workers={num_workers}"] if is_shared else [])


def list_gpus(device):
    """Return the names that CUDA_VISIBLE_DEVICES has for the GPUs that `device` leaves to choose from; [] without."""
    import torch  # as above

    if device not in ("auto", "cuda"):
        return []
    count, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[:count] if visible else [str(number) for number in range(count)]


def run_jobs(launcher, jobs, is_stopping=lambda: False):
    """Run jobs, as many at a time as there are slots; yield (job, exit status, last line of its log) as they end.

    jobs: an iterable, asked for the next one when a slot is free. Once is_stopping() none starts and all are stopped.
    """
    jobs, running = iter(jobs), {}
    while True:
        if is_stopping():
            jobs = iter(())
            for handle in running.values():
                launcher.stop(handle)
        while len(running) < launcher.num_slots and (job := next(jobs, None)) is not None:
            running[job] = launcher.start(job)
        if not running:
            return
        time.sleep(_POLL_SECONDS)
        for job, handle in list(running.items()):
            if (status := launcher.poll(handle)) is not None:
                del running[job]
                yield job, status, read_last_line(job.log)


def read_last_line(path):
    """Return the last line of a log that is not blank, or "no output"."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")

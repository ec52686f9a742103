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

    slots: the environment variables of each; words: of train.py, which each job gets too; device: cpu or cuda.
    """

    def __init__(self, slots, words=(), device="cpu"):
        self.device, self.num_slots, self._free = device, len(slots), list(slots)
        self._words = (*words, "launcher=null", "ray_address=null", "overwrite=false")  # YAML files may set them
        self._running, self._stopped = {}, set()  # {handle, as a Popen: slot}; handles

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        is_asked = kind in (Stopped, KeyboardInterrupt)
        try:
            for handle in self._running:  # who asks a second time does not wait
                handle.kill() if is_asked and handle in self._stopped else self.stop(handle)
            while [handle for handle in list(self._running) if self.poll(handle) is None]:
                time.sleep(_POLL_SECONDS)
        except BaseException:
            for handle in self._running:
                handle.kill()
            raise

    def start(self, job):
        """Start a job in a free slot; return its handle."""
        slot = self._free.pop(0)
        handle = self._start((*job.words, *self._words), job, slot)
        self._running[handle] = slot
        return handle

    def poll(self, handle):
        """Return the exit status of a job, below 0 that of a signal; None while it runs."""
        status = handle.poll()
        if status is not None and handle in self._running:
            self._free.append(self._running.pop(handle))
        return status

    def stop(self, handle):
        """Ask a job, once, to save and to end."""
        if handle in self._running and handle not in self._stopped:
            self._stopped.add(handle)
            handle.terminate()

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
    words = [f"train.num_workers={num_workers}"] if is_shared else []
    return LocalLauncher(slots, words, "cuda" if gpus else "cpu")


def list_gpus(device):
    """Return the names that CUDA_VISIBLE_DEVICES has for the GPUs that `device` leaves to choose from; [] without."""
    import torch  # as above

    count, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",")[:count] if visible else [str(number) for number in range(count)]
    return names if device in ("auto", "cuda") else []


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
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")

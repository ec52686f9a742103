"""Programs of this project beside each other, one a lane of cores, in processes that have the libraries loaded."""

import math
import multiprocessing
import multiprocessing.connection
import os
import runpy
import shlex
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import joblib
import psutil

from src.config.settings import REPOSITORY
from src.launchers import read_last_line

# what programs spend their first seconds on; of a tool that is not there none is loaded
_PRELOADED = [
    "src.training.seeds", "src.inference.predict", "src.analysis.figures", "tools.probe.command",
    "tools.blend.command", "tools.report.command",
]  # fmt: skip
_GRACE = 8  # seconds that programs have to save after SIGTERM


@dataclass(eq=False)
class Program:
    """Commands that are run one after the other, until one fails: [["train.py", "fold=0"], ["tools.blend", ...]]."""

    title: str
    commands: list
    log: Path
    ends_at: float = math.inf  # on time.monotonic's clock; then it is asked to end
    status: int | None = None  # exit status; None: has not ended
    seconds: float = 0.0
    process: object = None

    def last_line(self):
        """Return the last line that it has printed."""
        return read_last_line(self.log)


class Lanes:
    """Runs Programs; each lane has its own cores, and with GPUs (their ids) one of them. is_single: there is one."""

    def __init__(self, gpus=(), is_single=False):
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count())
        cores = list(cores)[: joblib.cpu_count()]
        count = len(gpus) or (1 if len(cores) < 2 or is_single else 2 if len(cores) < 8 else 4)
        self.cores = [cores[lane::count] or cores for lane in range(count)]
        self.gpus, self.running = list(gpus), {}  # {lane: Program}
        kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        self._context = multiprocessing.get_context(kind)
        if kind == "forkserver":
            self._context.set_forkserver_preload(_PRELOADED)
            multiprocessing.forkserver.ensure_running()  # which loads while this process goes on

    def __len__(self):
        return len(self.cores)

    @property
    def threads(self):
        """How many a program of a lane has."""
        return max(1, min(len(one) for one in self.cores))

    def start(self, program):
        """Start a Program on a free lane; return whether there was one."""
        lane = next((lane for lane in range(len(self.cores)) if lane not in self.running), None)
        if lane is None:
            return False
        program.log.parent.mkdir(parents=True, exist_ok=True)
        arguments = program.commands, str(program.log), self.cores[lane], self.gpus[lane] if self.gpus else None
        program.process = self._context.Process(target=run, args=arguments)
        program.seconds = -time.monotonic()
        program.process.start()
        self.running[lane] = program
        return True

    def wait(self, seconds=None):
        """Return the Programs that have ended, as soon as there is one; [] after some seconds."""
        if not self.running:
            return []
        timeout = None if seconds is None else max(0.0, seconds)
        multiprocessing.connection.wait([one.process.sentinel for one in self.running.values()], timeout)
        ended = [lane for lane, one in self.running.items() if not one.process.is_alive()]
        for lane in ended:
            self.running[lane].process.join()
            self.running[lane].status = self.running[lane].process.exitcode
            self.running[lane].seconds += time.monotonic()
        return [self.running.pop(lane) for lane in ended]

    def run(self, programs, ends_at, after=None):
        """Run Programs in turn on the lanes that are free, until time.monotonic() is `ends_at`; wait for these alone.

        after: called with each one that has ended, may return further Programs.
        """
        own = [one for one in programs if one.process is not None]  # that were started before
        queue = [one for one in programs if one.process is None]
        while queue or any(one.status is None for one in own):
            while queue and time.monotonic() < ends_at and self.start(queue[0]):
                own.append(queue.pop(0))
            if time.monotonic() >= ends_at:
                queue = []
            ended = self.wait(min([ends_at, *(one.ends_at for one in self.running.values())]) - time.monotonic())
            late = [one for one in self.running.values() if time.monotonic() >= min(ends_at, one.ends_at)]
            for one in [*ended, *(self.stop(late) if late else [])]:
                queue = [*((after(one) or []) if after and one in own else []), *queue]

    def stop(self, programs=None):
        """Ask programs, of None all, to save and to end, kill those that do not; return what has ended."""
        programs = list(self.running.values()) if programs is None else programs
        own = [psutil.Process(one.process.pid).children(recursive=True) for one in programs if one.process.is_alive()]
        for one in programs:
            one.process.terminate()
        ended, ends_at = [], time.monotonic() + _GRACE
        while any(one.status is None for one in programs) and time.monotonic() < ends_at:
            ended += self.wait(ends_at - time.monotonic())
        late = [one for one in programs if one.status is None]
        for one in late:
            one.process.kill()
        while any(one.status is None for one in late):
            ended += self.wait()
        for child in (child for children in own for child in children):  # loaders of one that was killed would stay
            with suppress(psutil.NoSuchProcess):
                child.kill()
        return ended


def run(commands, log, cores, gpu):
    """Run commands in this process, printing into a file; exit with the status of the first that fails."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which asks for the end
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for command, *words in commands:
        print("$", shlex.join([command, *words]), flush=True)
        sys.argv = [command, *words]
        try:
            if command.endswith(".py"):
                runpy.run_path(str(REPOSITORY / command), run_name="__main__")
            else:
                runpy.run_module(command, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if end.code:
                raise
        except KeyboardInterrupt:
            sys.exit(130)
        sys.stdout.flush()


def _end_with_parent():
    """Ask this process to end once the command that has started it has, however that ended."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)

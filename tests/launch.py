"""train.py and infer.py as a person runs them, and words that make a run of the embedded competition tiny."""

import contextlib
import functools
import gc
import importlib
import io
import multiprocessing
import os
import subprocess
import sys
import time
from unittest import mock

from src.config.settings import REPOSITORY

# The embedded competition, cut down to a few seconds: two folds, two epochs, few images.
TINY = [
    *("num_folds=2", "train.epochs=2", "train.max_images=96", "image_size=16", "tracking=none", "seed=7"),
    *("precision=fp32", "train.channels_last=true"),  # or each folder would time its steps
    "report=false",
    "threads=1",  # or the last bits would depend on what else runs
]

WORK = 5e5  # values that each bootstrap of scores.json scores here, a tenth: tests look at scores, not at intervals

_PRELOADED = ["src.training.run", "src.inference.predict", "src.evaluation.judgement"]
_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "offline"}


def run_program(program, *words, cwd, status=0, launcher=(), **environment):
    """Run train.py or infer.py as a process; return (stdout, stderr) after checking the exit status."""
    command = [sys.executable, *launcher, str(REPOSITORY / program), *words]
    environment = {**os.environ, **_ENVIRONMENT, **environment}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout, done.stderr


@functools.cache
def _load():
    """Import what programs need, once; garbage collections, which each fold's end asks for, then leave it out."""
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.freeze()


def run_here(program, *words, cwd, status=0):
    """As `run_program`, but in this process, which has paid for importing torch already, and with fewer bootstraps."""
    _load()
    main = importlib.import_module(program.removesuffix(".py")).main
    printed, complained, before = io.StringIO(), io.StringIO(), os.getcwd()
    found = 0
    os.chdir(cwd)
    try:
        with (
            mock.patch("src.evaluation.judgement._WORK", WORK),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(complained),
        ):
            main(list(words))
    except SystemExit as stop:
        found = stop.code
    finally:
        os.chdir(before)
    assert found == status, printed.getvalue()[-2000:] + complained.getvalue()[-4000:]
    return printed.getvalue(), complained.getvalue()


class Forked:
    """As `run_here`, in a process that is forked from one which has imported all: it begins at once, can be killed."""

    def __init__(self, program, words, cwd, log, **environment):
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(["tests.launch", *_PRELOADED])
        self._process = forks.Process(target=_run_forked, args=(program, words, cwd, log, environment))
        with mock.patch.dict(os.environ, PYTHONPATH=str(REPOSITORY)):  # with which the server starts
            self._process.start()
        self.pid = self._process.pid

    def is_running(self):
        return self._process.is_alive()

    def wait_for(self, condition):
        """Wait until the condition holds or the program has ended; return whether it is still running."""
        while self.is_running() and not condition():
            time.sleep(0.001)
        return self.is_running()

    def kill(self):
        self._process.kill()
        self._process.join()

    def status(self):
        """Wait for the end and return the exit status."""
        self._process.join()
        return self._process.exitcode


def _run_forked(program, words, cwd, log, environment):
    os.chdir(cwd)
    os.environ.update(_ENVIRONMENT | environment)
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    _load()
    with mock.patch("src.evaluation.judgement._WORK", WORK):
        importlib.import_module(program.removesuffix(".py")).main(list(words))

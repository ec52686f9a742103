"""train.py and infer.py as a person runs them, and words that make a run of the embedded competition tiny."""

import contextlib
import importlib
import io
import multiprocessing
import os
import subprocess
import sys
import time

from src.config.settings import REPOSITORY

# The embedded competition, cut down to a few seconds: two folds, two epochs, few images.
TINY = [
    *("num_folds=2", "train.epochs=2", "train.max_images=96", "image_size=16", "tracking=none", "seed=7"),
    *("precision=fp32", "train.channels_last=true"),  # or each folder would time its steps
    "report=false",
    "threads=1",  # or the last bits would depend on what else runs
]

_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "offline"}


def run_program(program, *words, cwd, status=0, launcher=(), **environment):
    """Run train.py or infer.py as a process; return (stdout, stderr) after checking the exit status."""
    command = [sys.executable, *launcher, str(REPOSITORY / program), *words]
    environment = {**os.environ, **_ENVIRONMENT, **environment}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout, done.stderr


def run_here(program, *words, cwd, status=0):
    """As `run_program`, but in this process, which has paid for importing torch already."""
    main = importlib.import_module(program.removesuffix(".py")).main
    printed, complained, before = io.StringIO(), io.StringIO(), os.getcwd()
    found = 0
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complained):
            main(list(words))
    except SystemExit as stop:
        found = stop.code
    finally:
        os.chdir(before)
    assert found == status, printed.getvalue()[-2000:] + complained.getvalue()[-4000:]
    return printed.getvalue(), complained.getvalue()


class Forked:
    """A program in a process that is forked from one which has imported all: it begins at once, and can be killed."""

    def __init__(self, program, words, cwd, log, **environment):
        for name, value in {**_ENVIRONMENT, "PYTHONPATH": str(REPOSITORY)}.items():
            os.environ[name] = value  # the server starts with these
        forks = multiprocessing.get_context("forkserver")
        forks.set_forkserver_preload(["tests.launch", "src.training.run", "src.inference.predict"])
        self._process = forks.Process(target=_run_forked, args=(program, words, cwd, log, environment))
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
    os.environ.update(environment)
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    importlib.import_module(program.removesuffix(".py")).main(list(words))

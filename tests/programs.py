"""train.py and infer.py as a person runs them, and words that make a run of the embedded competition tiny."""

import contextlib
import importlib
import io
import os
import subprocess
import sys

from src.config import REPOSITORY

# The embedded competition, cut down to a few seconds: two folds, two epochs, few images.
TINY = [
    *("num_folds=2", "train.epochs=2", "train.max_images=96", "image_size=16", "tracking=none", "seed=7"),
    *("precision=fp32", "train.channels_last=true"),  # or each folder would time its steps
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

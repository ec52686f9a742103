"""What all tests share: the programs as subprocesses, and a tiny run of the embedded competition."""

import os
import subprocess
import sys

import pytest

from src.config import REPOSITORY

# The embedded competition, cut down to a few seconds: two folds, one or two epochs, few images.
TINY = ["num_folds=2", "train.epochs=2", "train.max_images=96", "image_size=16", "tracking=none", "seed=7"]


def run_program(program, *words, cwd, status=0, launcher=(), **environment):
    """Run train.py or infer.py as a person would; return (stdout, stderr) after checking the exit status."""
    command = [sys.executable, *launcher, str(REPOSITORY / program), *words]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "offline", **environment}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout, done.stderr


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A folder with a finished run `outputs/demo_default` of the embedded competition, and what training printed."""
    folder = tmp_path_factory.mktemp("tiny")
    printed, _ = run_program("train.py", *TINY, cwd=folder)
    return folder, printed

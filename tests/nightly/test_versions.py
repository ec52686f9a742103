"""The fast suite with the oldest versions that the requirements allow, and with the kernels of other CPUs."""

import os
import subprocess
import sys

import pytest

from src.config.settings import REPOSITORY

FAST = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow and not nightly"]


def run(*words, **variables):
    done = subprocess.run(words, capture_output=True, text=True, cwd=REPOSITORY, env={**os.environ, **variables})
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]


@pytest.mark.nightly
def test_the_oldest_versions(tmp_path):
    python, uv = str(tmp_path / "bin" / "python"), [sys.executable, "-m", "uv"]
    run(*uv, "venv", "-q", "--python", sys.executable, str(tmp_path))
    files = ["-r", "requirements.txt", "-r", "requirements-dev.txt"]
    run(*uv, "pip", "install", "-q", "--python", python, "--resolution", "lowest-direct", *files)
    run(python, *FAST, OMP_NUM_THREADS="1")


@pytest.mark.nightly
@pytest.mark.parametrize(("torch", "onednn"), [("default", "SSE41"), ("avx2", "AVX2")])
def test_the_kernels_of_other_cpus(torch, onednn):
    run(sys.executable, *FAST, ATEN_CPU_CAPABILITY=torch, ONEDNN_MAX_CPU_ISA=onednn, OMP_NUM_THREADS="1")

"""Starts the report of a run as a program, where tools/report is there: what it raises never ends a run."""

import math
import os
import shlex
import subprocess
import sys
from pathlib import Path

from src.config.settings import REPOSITORY

_SECONDS = 120  # that a page may take


def write_report(config, run_folder, output=None, pictures=None, seconds=math.inf):
    """Write report.html of a run's folder; return its path, None where report=false, without the tool, or on a failure.

    output: the page's path, None: in the run's folder; pictures: folder for its figures as PNG, None: none.
    seconds: that it may take, at most 120.
    """
    if not config.report or not (REPOSITORY / "tools" / "report").is_dir():
        return None
    seconds = min(seconds, _SECONDS)
    options = {"output": output, "pictures": pictures}
    words = [str(run_folder), *(f"{key}={value}" for key, value in options.items() if value)]
    path, again = Path(output or Path(run_folder) / "report.html"), f"python -m tools.report {shlex.join(words)}"
    environment = tools_environment() | {"CUDA_VISIBLE_DEVICES": ""}  # the GPU is this process's
    environment["PYTHONSAFEPATH"] = "1"  # or a folder "tools" of the working directory would be taken
    try:
        command = [sys.executable, "-m", "tools.report", *words]
        done = subprocess.run(command, capture_output=True, errors="replace", timeout=seconds, env=environment)
        reason = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    except (OSError, subprocess.SubprocessError) as error:
        reason = f"{seconds:.3g} s are not enough" if isinstance(error, subprocess.TimeoutExpired) else str(error)
    if reason:
        print(f"{path}: not written ({reason}); {again} tries again", file=sys.stderr)
    return None if reason else path


def tools_environment():
    """Return the environment variables with which `python -m tools.NAME` is this project's in any working directory."""
    paths = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": paths}

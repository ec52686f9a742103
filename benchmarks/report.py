"""Reports of benchmarks: the numbers, the command, and the machine, versions and commit that they depend on."""

import os
import platform
import shlex
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from src.config.settings import REPOSITORY
from src.errors import UserError, listing, nearest
from src.files import save_json

PACKAGES = (
    "torch",
    "timm",
    "albumentations",
    "accelerate",
    "numpy",
    "pandas",
    "scikit-learn",
    "opencv-python-headless",
)


def save_report(path, rows, command, **more):
    """Write a report as JSON.

    Args:
        rows: plain containers, the raw numbers.
        command: the command line, as words or one string.
        more: further entries: settings, targets, summaries.
    """
    command = command if isinstance(command, str) else shlex.join(command)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    save_json(path, {"command": command, "date": date, "made_by": describe_machine(), **more, "rows": rows})


def describe_machine():
    """Return what a timing depends on: commit, versions, processor, cores, memory, GPU."""
    return {
        "commit": describe_commit(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "gpu": _gpu(),
    }


def describe_commit():
    """Return the short hash, " + changes" where code or settings differ from it; unknown without git."""

    def git(*words):
        return subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short", "HEAD")
        return (commit + (" + changes" if git("status", "--porcelain", "--", "*.py", "*.yaml") else "")) or "unknown"
    except FileNotFoundError:
        return "unknown"


def spread(values):
    """Return {"median", "min", "max"} of some numbers."""
    values = [float(value) for value in values]
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summarize(values, digits=2):
    """Return "1.23 (1.20..1.30)": the median, the smallest and the largest."""
    return "{median:.{d}f} ({min:.{d}f}..{max:.{d}f})".format(**spread(values), d=digits)


def table_text(rows):
    """Return rows of cells as aligned columns; the first row holds their names."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    aligned = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in aligned)


def read_words(words, defaults, program, whole_numbers=(), lists=()):
    """Return {key: value} of key=value words, in place of the defaults where given.

    Args:
        defaults: {key: str}.
        program: name of the module, for errors.
        whole_numbers: keys whose value is a whole number, at least 1.
        lists: keys whose value is a list of whole numbers from 0, separated by commas.

    Raises:
        UserError: a word is wrong.
    """
    found = dict(defaults)
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"command line: {word!r} is not key=value; see python -m {program} --help")
        if key not in defaults:
            hint = nearest(key, defaults) or f"; the keys are {listing(defaults)}"
            raise UserError(f"command line: unknown {key}={value}{hint}")
        found[key] = value
    for key in (*whole_numbers, *lists):
        numbers = found[key].split(",") if key in lists else [found[key]]
        least, kind = (0, "whole numbers from 0, with commas") if key in lists else (1, "a whole number from 1")
        if not all(one.isascii() and one.isdigit() and int(one) >= least for one in numbers):
            raise UserError(f"{key}={found[key]}: not {kind}; write for example {key}={defaults[key]}")
        found[key] = [int(one) for one in numbers] if key in lists else int(numbers[0])
    return found


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gb():
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError):
        return None


def _gpu():
    """Return the first GPU's name, where torch is imported already."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None

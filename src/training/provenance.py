"""provenance.json: code, versions, machine and tables of a run's first command, and what later ones had else."""

import hashlib
import platform
import re
import shlex
import subprocess
from contextlib import suppress
from importlib import metadata

import torch

from src.checkpointing.run_folder import RunFolder
from src.competition.paths import locate
from src.config.settings import REPOSITORY
from src.containers import is_file, read_file
from src.device import name_cpu
from src.files import load_json, save_json
from src.launchers import is_joining
from src.terminal import paint

_LIBRARIES = ("torch", "torchvision", "timm", "accelerate", "numpy", "pandas", "scikit-learn", "scipy", "opencv-python",
              "opencv-python-headless", "albumentations", "pillow")  # fmt: skip


def save_provenance(path, config, words, device, has_work):
    """Write the facts of a run's first command; of a later one, where the run has work, append what is different.

    A table that has changed since is named. words: of the command line; device: torch.device.
    """
    facts = {"command": shlex.join(["python", "train.py", *words]), **collect_facts(config, device)}
    first = load_json(path, *facts) if has_work and path.is_file() else facts
    if is_joining(path.parent):
        facts["command"] = first["command"]  # of which this process is a part
    for name in (name for name, digest in facts["tables"].items() if digest != first["tables"].get(name)):
        key = name if name.startswith("train.") else f"competition.{name}"
        print(paint(f"{path.parent}: {key} is another file than the one that the run began with", "yellow"))
    changed, later = {key: value for key, value in facts.items() if value != first[key]}, first.get("later", [])
    save_json(path, first | {"later": [*later, changed] if changed and changed not in later else later})


def collect_facts(config, device):
    """Return {commit, is_dirty, versions, machine, tables}, the last of them as SHA-256; None: there is none."""
    commit, is_dirty = read_commit(REPOSITORY)
    versions, tables, competition = {"python": platform.python_version(), **read_versions()}, {}, config.competition
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    machine = {"system": platform.platform(), "cpu": name_cpu(), "gpu": gpu}
    names = ("train_table", "test_table", "sample_submission")
    paths = {name: locate(competition.root, getattr(competition, name) or "") for name in names}
    teachers = {"train.teacher": config.train.teacher, "train.pseudo": config.train.pseudo}
    paths |= {key: RunFolder(run).oof for key, run in teachers.items() if run}
    for name, path in paths.items():
        tables[name] = hashlib.sha256(read_file(str(path))).hexdigest() if is_file(str(path)) else None
    return {"commit": commit, "is_dirty": is_dirty, "versions": versions, "machine": machine, "tables": tables}


def read_versions():
    """Return {library: its version} of those that decide a run's numbers."""
    versions = {}
    for library in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library)
    return versions


def read_commit(folder):
    """Return (git's hash of the code in a folder, whether it was changed since); (None, None) where git knows none."""
    git, found = ["git", "--no-optional-locks", "-C", str(folder)], []
    try:
        for words in (["ls-files"], ["status", "--porcelain=v2", "--branch"]):
            command = [*git, *words, "--", "train.py", "infer.py", "src"]
            found += [subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout]
    except (OSError, subprocess.SubprocessError):
        return None, None
    commit = re.search("^# branch.oid ([0-9a-f]+)$", found[1], re.MULTILINE)
    if not commit or not found[0]:  # the repository around an exported copy, which holds none of its files
        return None, None
    return commit[1], any(not line.startswith("#") for line in found[1].splitlines())

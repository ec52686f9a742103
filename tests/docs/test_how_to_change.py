"""docs/how_to_change.md: each change fits the code as it is; by night every command prints what the page says.

UPDATE_DOCS=1 writes what the commands print into the page instead of comparing it.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.config.settings import REPOSITORY, settings

PAGE = REPOSITORY / "docs/how_to_change.md"
COPIED = ("src", "tools", "configs", "train.py", "infer.py")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def read_entries():
    """Return {heading: [(kind, text)]} of the page's fenced blocks."""
    parts = re.split(r"^## (.+)\n", PAGE.read_text(encoding="utf-8"), flags=re.M)
    entries = {title: _BLOCK.findall(text) for title, text in zip(parts[1::2], parts[2::2], strict=True)}
    assert len(entries) > 15
    return entries


def copy_repository(folder):
    """Copy programs and rooms; what runs and data a folder holds stays."""
    for name in COPIED:
        if (REPOSITORY / name).is_dir():
            shutil.rmtree(folder / name, ignore_errors=True)
            ignored = shutil.ignore_patterns("__pycache__", "report")  # without tools/report runs end sooner
            shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
        else:
            shutil.copy(REPOSITORY / name, folder / name)


def apply_diff(folder, text):
    """Make the changes of a diff block: `--- file` begins a file, `@@` another place in it."""
    path = None
    for part in re.split(r"^(?=--- )|^@@.*\n", text, flags=re.M):
        lines = part.splitlines()
        if lines and lines[0].startswith("--- "):
            path = folder / lines.pop(0)[4:].strip()
        if lines:
            old, new = ("".join(f"{line[1:]}\n" for line in lines if line[:1] != sign) for sign in "+-")
            source = path.read_text(encoding="utf-8")
            assert source.count(old) == 1, f"{path.name} has {source.count(old)} times:\n{old}"
            path.write_text(source.replace(old, new), encoding="utf-8")


def split_console(text):
    """Return [(command, what it printed)] of a console block."""
    parts = re.split(r"^\$ (.+)\n", text, flags=re.M)
    assert not parts[0]
    return list(zip(parts[1::2], parts[2::2], strict=True))


def mask_numbers(text):
    return re.sub(r"[\d.]+|[ -]+", "#", text)


@pytest.fixture(scope="module")
def fork(tmp_path_factory):
    return tmp_path_factory.mktemp("fork")


@pytest.mark.parametrize("title", read_entries())
def test_each_change_fits_the_code(fork, title):
    copy_repository(fork)
    blocks = read_entries()[title]
    for kind, text in blocks:
        if kind == "diff":
            apply_diff(fork, text)
            for name in re.findall(r"^--- (.+)", text, flags=re.M):
                compile((fork / name).read_text(encoding="utf-8"), name, "exec")
        elif kind == "python":
            compile(text, title, "exec")
    own = re.findall(r"^\+    (\w+): .+ = setting\(", "".join(text for kind, text in blocks if kind == "diff"), re.M)
    for command in re.findall(r"^\$ .*train\.py .+", "".join(text for kind, text in blocks if kind == "console"), re.M):
        for word in re.findall(r"\s([a-z_.]+)=", command):
            group = word.rpartition(".")[0]
            assert word in settings() or group in settings() or word.removeprefix("train.") in own, command


@pytest.mark.nightly
@pytest.mark.parametrize("title", read_entries())
def test_each_command_prints_what_the_page_says(fork, title):
    copy_repository(fork)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for kind, text in read_entries()[title]:
        if kind == "diff":
            apply_diff(fork, text)
        elif kind == "python":
            (fork / text.splitlines()[0].removeprefix("# ")).write_text(text, encoding="utf-8")
        for command, expected in split_console(text) if kind == "console" else ():
            words = ["bash", "-c", command]
            done = subprocess.run(words, cwd=fork, capture_output=True, text=True, env=environment)
            printed = re.sub(r" +$", "", done.stdout, flags=re.M)
            assert done.returncode == 0, f"{command}\n{printed}{done.stderr[-3000:]}"
            if "UPDATE_DOCS" in os.environ:
                page, old = PAGE.read_text(encoding="utf-8"), f"$ {command}\n{expected}"
                assert old in page
                PAGE.write_text(page.replace(old, f"$ {command}\n{printed}", 1), encoding="utf-8")
            else:
                assert mask_numbers(printed) == mask_numbers(expected), command

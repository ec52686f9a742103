"""The house keeps its order: who may import whom, each library's one door, and the README's tree."""

import ast
import re
import subprocess

import pytest

from src.config.settings import REPOSITORY

SOURCES = sorted((REPOSITORY / "src").rglob("*.py"))
FOUNDATION = {"checks", "config", "configure", "errors", "files", "locks", "wording"}
MAY_IMPORT = {
    "adopt": FOUNDATION | {"competition"},
    "competition": FOUNDATION,
    "evaluation": FOUNDATION,
    "data": FOUNDATION | {"competition.tables"},
    "model": FOUNDATION,
    "training": FOUNDATION | {"device", "runs", "data", "model", "evaluation", "competition"},
    "doctor": FOUNDATION
    | {"device", "data", "competition", "evaluation", "model.network", "model.losses"}
    | {
        "training.parts",
        "training.optimizer",
        "training.engine",
        "training.checkpoint",
    },  # to time a step, to ask a trained run
    "inference": FOUNDATION
    | {"device", "runs", "data", "model", "evaluation", "competition", "training.engine", "training.checkpoint"},
}
DOORS = {
    "albumentations": {f"data/{name}.py" for name in ("augment", "presets", "policies", "erasing")},
    "omegaconf": {"configure.py"},
    "wandb": {"training/tracking.py"},
    "accelerate": {f"training/{name}.py" for name in ("run", "fold", "features", "keeping", "checkpoint")},
    "filelock": {"locks.py"},
    "timm": {"training/optimizer.py"},  # and model/
    "pydicom": {"data/decode.py"},
    "imagehash": {"doctor/scan.py"},
    "jinja2": {"doctor/report.py"},
    "psutil": {"doctor/resources.py", "files.py"},
}
WITHOUT_TORCH = ("adopt", "competition", "evaluation")


def imports_of(path):
    """Every module that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found


def name_of(path):
    return path.relative_to(REPOSITORY / "src").as_posix()


@pytest.mark.parametrize("path", [path for path in SOURCES if "/" in name_of(path)], ids=name_of)
def test_imports_go_downward_only(path):
    room = name_of(path).split("/")[0]
    for module in imports_of(path):
        if module.startswith("src."):
            target = module.removeprefix("src.")
            allowed = MAY_IMPORT[room] | {room}
            assert any(target == one or target.startswith(one + ".") for one in allowed), f"{room} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_each_library_has_one_door(path):
    libraries = {module.split(".")[0] for module in imports_of(path)}
    for library, doors in DOORS.items():
        if library in libraries:
            assert name_of(path) in doors or (library == "timm" and name_of(path).startswith("model/"))
    if name_of(path).startswith(WITHOUT_TORCH):
        assert "torch" not in libraries


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_file_says_what_it_owns(path):
    if path.read_text(encoding="utf-8").strip():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_the_readme_tree_is_the_tree():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"<!-- tree -->\n```\n(.*?)```", text, re.DOTALL)[1]
    listed, folders = set(), []
    for line in tree.splitlines():
        name = re.match(r" *(\S+)", line)[1]
        depth = (len(line) - len(line.lstrip())) // 2
        folders = [*folders[:depth], name.rstrip("/")]
        listed.add("/".join(folders))
    files = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=REPOSITORY, check=True).stdout
    actual = {one for one in files.split() if one.startswith("src/") and not one.endswith("__init__.py")}
    actual |= {one for one in files.split() if "/" not in one and one.endswith((".py", ".txt"))} | {"Makefile"}
    named = {one for one in listed if one.endswith((".py", ".txt", ".jinja")) or one == "Makefile"}
    assert named == actual


def test_git_holds_no_data_weights_or_runs():
    files = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=REPOSITORY, check=True).stdout
    assert [one for one in files.split() if re.search(r"^outputs/|^wandb/|\.(safetensors|pt|pth|npy|dcm)$", one)] == []
    assert [one for one in files.split() if one.startswith("data/")] == ["data/README.md"]

"""The house keeps its plan: who may import whom, each library's door, the pipeline's size, and the README's tree."""

import ast
import re
import subprocess
import sys

import pytest

from src.config.settings import REPOSITORY, settings

SOURCES = sorted((REPOSITORY / "src").rglob("*.py"))
TOOLS = sorted((REPOSITORY / "tools").rglob("*.py"))
FOUNDATION = {"config", "containers", "errors", "files", "locks", "device", "terminal", "remote", "report"}
FOUNDATION |= {"launchers", "ray_launcher"}
ROOMS = {"competition", "evaluation", "data", "model"}
MAY_IMPORT = {
    **{"errors": {"terminal"}, "files": {"errors"}, "locks": {"errors", "files"}, "device": {"config", "errors"}},
    **{"containers": {"errors", "remote"}, "remote": {"errors"}, "terminal": set(), "report": {"config", "errors"}},
    **{"launchers": {"config", "errors"}, "ray_launcher": {"config", "device", "errors", "launchers"}},
    "config": {"errors", "files", "locks", "remote"},
    "evaluation": FOUNDATION,
    "competition": FOUNDATION | {"evaluation"},
    "data": FOUNDATION | {"competition"},
    "model": FOUNDATION,
    "checkpointing": FOUNDATION | ROOMS,
    "training": FOUNDATION | ROOMS | {"checkpointing"},
    "inference": FOUNDATION | ROOMS | {"checkpointing", "training"},
    "analysis": FOUNDATION | ROOMS | {"checkpointing", "training", "inference"},
}
WITHOUT_TORCH = ("competition/", "evaluation/", "config/")
WITHOUT_TORCH += ("containers.py", "errors.py", "files.py", "locks.py", "remote.py", "terminal.py")
# What src imports each library in; numpy, pandas and torch may be anywhere else.
DOORS = {
    "accelerate": ("checkpointing/", "inference/prediction_parts.py", "training/"),
    "albumentations": ("data/",),
    "cv2": ("data/",),
    "filelock": ("locks.py",),
    **dict.fromkeys(("aiohttp", "fsspec"), ("remote.py",)),
    "h5py": ("containers.py",),
    "huggingface_hub": ("model/weights.py",),
    "iterstrat": ("competition/splits.py",),
    "joblib": ("data/", "device.py", "ray_launcher.py"),
    "matplotlib": ("analysis/",),
    "omegaconf": ("config/",),
    "PIL": ("competition/demo.py", "data/"),
    "psutil": ("device.py", "files.py"),
    "pyarrow": ("containers.py", "inference/prediction_parts.py"),
    "pydicom": ("data/",),
    "ray": ("ray_launcher.py",),
    "requests": ("training/wandb_tracker.py",),
    "safetensors": ("checkpointing/serialization.py", "model/weights.py"),
    "scipy": ("evaluation/", "inference/ensemble.py"),
    "rich": ("terminal.py",),
    "onnxruntime": ("inference/engines.py",),
    "tensorboard": ("training/tensorboard_tracker.py",),
    "sklearn": ("competition/", "evaluation/", "analysis/"),
    "timm": ("model/", "training/averaging.py", "training/optimizer.py"),
    "torchvision": ("data/",),
    "wandb": ("training/tracking.py", "training/wandb_tracker.py"),
    "yaml": ("config/",),
    **dict.fromkeys(("numpy", "pandas", "torch"), ("",)),
}
MOST_LINES, MOST_MODULES, MOST_SETTINGS = 12300, 76, 136


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path, is_at_top=False):
    """Every module that a file imports, at its top or inside a function; of `from a import b` also a.b."""
    tree = parse(path)
    found = set()
    for node in tree.body if is_at_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def name_of(path):
    return path.relative_to(REPOSITORY / "src").as_posix()


def room_of(path):
    return name_of(path).split("/")[0].removesuffix(".py")


def path_of(module):
    """The file of one of the project's modules, or None."""
    base = REPOSITORY / module.replace(".", "/")
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def reach(paths, is_at_top=False):
    """The files of src that some files import, directly or through others."""
    found, left = set(), list(paths)
    while left:
        for module in imports_of(left.pop(), is_at_top):
            path = path_of(module) if module.startswith("src.") else None
            if path is not None and path not in found:
                found.add(path)
                left.append(path)
    return found


def list_committed():
    done = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize("path", [path for path in SOURCES if room_of(path) != "__init__"], ids=name_of)
def test_imports_go_downward_only(path):
    room = room_of(path)
    for module in imports_of(path):
        top, _, rest = module.partition(".")
        assert top not in ("tools", "benchmarks", "tests", "train", "infer"), f"{name_of(path)} imports {module}"
        if top == "src" and rest:
            target = rest.split(".")[0]
            assert target == room or target in MAY_IMPORT[room], f"{name_of(path)} imports {module}"


@pytest.mark.parametrize("path", [path for path in SOURCES if name_of(path).startswith(WITHOUT_TORCH)], ids=name_of)
def test_what_answers_a_typo_and_reads_tables_imports_no_torch(path):
    """Nor does anything that it imports at its top."""
    for one in {path, *reach([path], is_at_top=True)}:
        libraries = {module.split(".")[0] for module in imports_of(one)}
        assert not libraries & {"torch", "timm", "accelerate"}, f"{name_of(path)} reaches {name_of(one)}"


def test_no_tool_imports_another_so_that_each_may_be_deleted():
    for path in TOOLS:
        tool = path.relative_to(REPOSITORY / "tools").parts[0].removesuffix(".py")
        for module in imports_of(path):
            top, *rest = module.split(".")
            assert top not in ("benchmarks", "tests"), f"{path} imports {module}"
            assert top != "tools" or not rest or rest[0] in (tool, "page"), f"{path} imports {module}"


@pytest.mark.house
@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_each_library_has_its_door(path):
    for module in imports_of(path):
        library = module.split(".")[0]
        if library != "src" and library not in sys.stdlib_module_names:
            assert name_of(path).startswith(DOORS[library]), f"{name_of(path)} imports {library}"


@pytest.mark.house
@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_file_says_what_it_owns(path):
    if path.read_text(encoding="utf-8").strip():
        assert ast.get_docstring(parse(path))


@pytest.mark.house
def test_every_module_has_its_mirror_among_the_tests():
    modules = {name_of(path) for path in SOURCES if path.name != "__init__.py"}
    expected = {re.sub(r"(\w+\.py)$", r"test_\1", name) for name in modules}
    rooms = {"", *(room_of(path) for path in SOURCES if "/" in name_of(path))}
    tests = [path for room in rooms for path in (REPOSITORY / "tests" / room).glob("test_*.py")]
    found = {path.relative_to(REPOSITORY / "tests").as_posix() for path in tests}
    assert sorted((found ^ expected) - {"test_house.py", "test_notebooks.py"}) == []


@pytest.mark.house
def test_the_pipeline_can_be_read_in_one_sitting():
    """All that train.py and infer.py import, lazily too, with the packages' __init__.py, which Python runs on the way.

    What src/__init__.py opens to notebooks, src/analysis, is left out: neither program asks it for a name.
    """
    files = reach([REPOSITORY / "train.py", REPOSITORY / "infer.py"])
    files |= {path.with_name("__init__.py") for path in files} | {REPOSITORY / "src" / "__init__.py"}
    modules = [path for path in files if path.name != "__init__.py"]
    num_lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    print(f"{num_lines} lines in {len(modules)} modules, {len(settings())} settings")
    assert num_lines <= MOST_LINES
    assert len(modules) <= MOST_MODULES
    assert len(settings()) <= MOST_SETTINGS


@pytest.mark.house
def test_the_readme_names_the_rooms():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"<!-- tree -->\n```\n(.*?)```", text, re.DOTALL)[1]
    named, folders = set(), []
    for line in tree.splitlines():
        name = re.match(r" *(\S+)", line)[1]
        folders = [*folders[: (len(line) - len(line.lstrip())) // 2], name.rstrip("/")]
        named.add("/".join(folders))
        assert (REPOSITORY / "/".join(folders)).exists(), name
    committed = list_committed()
    rooms = {one.rsplit("/", 1)[0] for one in committed if one.startswith("src/")}
    rooms |= {one.split("/")[0] for one in committed if "/" in one and not one.startswith(".")}
    assert sorted(rooms - named) == []


@pytest.mark.house
def test_git_holds_no_data_weights_or_runs():
    files = list_committed()
    assert [one for one in files if re.search(r"^outputs/|^wandb/|\.(safetensors|pt|pth|npy|dcm)$", one)] == []
    assert [one for one in files if one.startswith("data/")] == ["data/README.md"]

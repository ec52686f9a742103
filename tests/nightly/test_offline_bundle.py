"""A bundle in an environment that holds what Kaggle's image lists, without a network, mounted as Kaggle mounts it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.config.settings import REPOSITORY
from tests.launch import TINY
from tools.bundle.wheels import _NOT_NEEDED, read_image

# torch itself, of this environment: Kaggle's build is one for CUDA, of 6 GB
_LINKED = ("torch", "torchvision", "torchgen", "functorch", "triton", "nvidia", "cuda")
_NOTEBOOK = """
import nbformat, sys
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()
print("".join(one.get("text", "") for cell in notebook.cells for one in cell.get("outputs", [])))
"""
# Runs "$@" in a network namespace without a route, with the folder $INPUT, which nobody can write, as /kaggle/input.
_OFFLINE = """
ip link set lo up  # the notebook's kernel talks through it
mount --bind "$INPUT" /kaggle/input && mount -o remount,ro,bind /kaggle/input && cd "$WORKING" && exec "$@"
"""


def run(*words, cwd=REPOSITORY, **variables):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "KAGGLE_INPUT")}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} | {k: str(v) for k, v in variables.items()}
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


def make_environment(folder):
    """Make a virtual environment of the image's packages that this project names, and of what runs a notebook."""
    image = read_image()[1]
    missing_here = {"onnx", "lightgbm", "ml-dtypes"}  # which no run of this test needs
    names = {name: version for name, version in image.items() if name not in {*_LINKED, *missing_here, *_NOT_NEEDED}}
    del names["pydicom"]  # of which the list has no version: the wheel is tried
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin/python"
    pins = [name if version is None else f"{name}=={version}" for name, version in names.items()]
    run(python, "-m", "pip", "install", "-q", "--no-deps", *pins)
    run(python, "-m", "pip", "install", "-q", "nbclient", "ipykernel")
    here, there = Path(sysconfig.get_paths()["purelib"]), next((folder / "lib").glob("python3*/site-packages"))
    for path in here.iterdir():
        name = path.name.split("-")[0].split(".")[0]
        if name.startswith(_LINKED) and not (there / path.name).exists():
            (there / path.name).symlink_to(path)
    return python


@pytest.fixture
def kaggle_input():
    """The folder /kaggle/input, made for the test where it is not there."""
    if os.geteuid() or subprocess.run(["unshare", "-mn", "true"], capture_output=True).returncode:
        pytest.skip("namespaces of mounts and networks need root and a kernel that has them")
    made = [path for path in (Path("/kaggle"), Path("/kaggle/input")) if not path.exists()]
    for path in made:
        path.mkdir()
    yield Path("/kaggle/input")
    for path in reversed(made):
        path.rmdir()


@pytest.mark.nightly
def test_a_bundle_infers_in_kaggles_environment_without_a_network(tmp_path, kaggle_input):
    run(sys.executable, REPOSITORY / "train.py", *TINY, "name=a", cwd=tmp_path)
    run(sys.executable, REPOSITORY / "train.py", *TINY, "name=b", "seed=8", cwd=tmp_path)
    code, python = {"PYTHONPATH": REPOSITORY}, make_environment(tmp_path / "kaggle")
    version = f"python={sys.version_info.major}.{sys.version_info.minor}"
    began = time.monotonic()
    for name, runs in (("one", ["outputs/a"]), ("two", ["outputs/a", "outputs/b"])):
        words = [*runs, f"output={name}", version, "user=ann", f"title=bundle {name}"]
        print(run(sys.executable, "-m", "tools.bundle", *words, cwd=tmp_path, **code))
    print(f"two bundles: {time.monotonic() - began:.0f} s")

    # infer.py itself, in the same environment with what the wheels bring
    wheels = sorted((tmp_path / "two/wheels").glob("*.whl"))
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path / "added", *wheels)
    with_wheels = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "added"), str(REPOSITORY)])}
    for one in ("a", "b"):
        run(python, REPOSITORY / "infer.py", f"run=outputs/{one}", "report=false", cwd=tmp_path, **with_wheels)
    run(python, "-m", "tools.blend", "outputs/a", "outputs/b", "name=both", cwd=tmp_path, **with_wheels)
    sources = {"one": "a", "two": "both"}
    expected = {name: (tmp_path / f"outputs/{one}/submission.csv").read_bytes() for name, one in sources.items()}
    run(sys.executable, REPOSITORY / "infer.py", "run=outputs/a", "report=false", cwd=tmp_path)
    here = pd.read_csv(tmp_path / "outputs/a/submission.csv").to_numpy()[:, 1:].astype(float)

    places = {"datasets/ann/bundle-one": "one", "renamed": "two", "competitions/demo": "data/demo"}
    for place, source in places.items():
        shutil.copytree(tmp_path / source, tmp_path / "input" / place)
    (tmp_path / "input/competitions/demo/solution.csv").unlink()
    for one in ("outputs", "data", "one", "two"):
        shutil.rmtree(tmp_path / one)
    path = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    for name, bundle in (("one", "datasets/ann/bundle-one"), ("two", "renamed")):
        for how in ("infer.sh", "notebook"):
            working = tmp_path / f"working {name} {how}"
            working.mkdir()
            words = ["bash", kaggle_input / bundle / "infer.sh"]
            if how == "notebook":
                words = [python, "-c", _NOTEBOOK, kaggle_input / bundle / "notebook.ipynb"]
            began = time.monotonic()
            variables = {"INPUT": tmp_path / "input", "WORKING": working, "PATH": path}
            printed = run("unshare", "-mn", "bash", "-c", _OFFLINE, "_", *words, **variables)
            print(f"{name}, {how}: {time.monotonic() - began:.0f} s\n{printed}")
            assert "omegaconf" in printed
            assert "wheel of" not in printed
            assert [one.name for one in working.iterdir()] == ["submission.csv"]
            assert (working / "submission.csv").read_bytes() == expected[name]
    found = pd.read_csv(tmp_path / "working one infer.sh/submission.csv").to_numpy()[:, 1:].astype(float)
    print(f"largest difference to this environment's versions: {np.abs(found - here).max():.2g}")
    np.testing.assert_allclose(found, here, atol=1e-4)
    shutil.rmtree(tmp_path / "kaggle")

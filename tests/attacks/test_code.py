"""Nothing that is loaded can run code: planted pickles stay unread, and no loader that would run them is called."""

import ast
import os
import pickle

import numpy as np
import pytest
import torch

from src.checkpointing.serialization import load_state, load_weights
from src.config.load import load_config
from src.config.settings import REPOSITORY, Competition
from src.data.cache import ImageCache
from src.data.decode import decode_image
from src.errors import UserError
from src.model.network import build_network

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # torch's, of what it refuses


class Planted:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def planted(tmp_path):
    """A pickle that makes a folder, in torch's two formats and plain; none may have made it in the end."""
    trap = tmp_path / "code_ran"
    torch.save({"conv1.weight": Planted(trap)}, tmp_path / "zip")
    torch.save({"conv1.weight": Planted(trap)}, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    plain = pickle.dumps(Planted(trap))
    (tmp_path / "plain").write_bytes(plain)
    yield tmp_path
    assert not trap.exists()
    pickle.loads(plain)
    assert trap.exists()  # or the tests would see nothing


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".pkl", ".ckpt", ".pth.tar", ".safetensors", ".npz", ""])
def test_weights_that_are_a_program_are_refused_by_name(planted, kind, suffix):
    path = (planted / kind).rename(planted / f"test_resnet{suffix}") if kind != "plain" else planted / f"w{suffix}"
    if kind == "plain":
        path.write_bytes((planted / "plain").read_bytes())
    config = load_config(["model.kwargs={}", "model.pretrained=true", f"model.weights={path}"])
    with pytest.raises(UserError) as caught:
        build_network(config, 1)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert line.endswith(("convert it to safetensors", "{name: tensor}"))


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain"])
def test_a_checkpoint_that_is_a_program_is_refused_by_name(planted, kind):
    with pytest.raises(UserError, match=f"{kind}: holds more than tensors and plain values, which could run code"):
        load_state(planted / kind)
    with pytest.raises(UserError, match=f"{kind}: cannot be loaded"):
        load_weights(planted / kind, torch.nn.Linear(1, 1))


def test_an_array_that_is_a_program_is_refused_by_name(planted):
    array = np.empty((4, 4), dtype=object)
    array[:] = Planted(planted / "code_ran")
    np.save(planted / "a.npy", array)
    os.rename(planted / "plain", planted / "b.npy")
    for name in ("a.npy", "b.npy"):
        with pytest.raises(UserError, match=f"{name}: cannot be decoded as an image"):
            decode_image(str(planted / name), Competition(channels=1))
    with pytest.raises(ValueError, match="Python objects"):  # which open_cache takes for none
        ImageCache(planted / "a.npy", np.zeros(4, np.uint64))


FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "joblib.load"),
    *("pickle.Unpickler", "pd.read_pickle", "pandas.read_pickle", "marshal.loads", "shelve.open", "dill.load"),
    *("yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "torch.hub.load", "runpy.run_path"),
    *("cloudpickle.load", "importlib.import_module"),
}


def list_sources(path):
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def faults_in(source):
    """Yield the calls by which loading could run code."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, words = ast.unparse(node.func), {one.arg: ast.unparse(one.value) for one in node.keywords}
        is_unsafe = name in FORBIDDEN
        is_unsafe |= name == "torch.load" and words.get("weights_only") != "True"
        is_unsafe |= name in ("np.load", "numpy.load") and words.get("allow_pickle", "False") != "False"
        is_unsafe |= name == "yaml.load" and words.get("Loader") not in ("yaml.SafeLoader", "yaml.BaseLoader")
        is_unsafe |= name.startswith("subprocess.") and words.get("shell", "False") != "False"
        if is_unsafe:
            yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize(
    "path", [path for name in ("src", "train.py", "infer.py") for path in list_sources(REPOSITORY / name)],
    ids=lambda path: path.relative_to(REPOSITORY).as_posix(),
)  # fmt: skip
def test_no_call_loads_what_could_be_a_program(path):
    assert list(faults_in(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "call", ["torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p, allow_pickle=True)", "pickle.load(f)",
             "yaml.load(t, Loader=yaml.Loader)", "yaml.load(t)", "eval(t)", "subprocess.run(t, shell=True)"],
)  # fmt: skip
def test_the_test_above_sees(call):
    assert len(list(faults_in(call))) == 1

"""Several processes that train one fold, as torchrun starts them on two hosts, here with a folder of its own each.

tests/nightly/test_two_hosts.py has hosts with a network between them.
"""

import re
import shutil
import socket
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import timm
from safetensors.numpy import load_file
from safetensors.torch import save_file

from src.competition.demo import write_demo
from src.config.load import load_config
from src.config.settings import REPOSITORY
from src.training.processes import start_processes
from tests.launch import TINY, Forked

WORDS = [*TINY, "fold=0", "device=cpu", "train.batch_size=8", "checkpoint_minutes=0", "name=both"]


@pytest.fixture
def folders(tmp_path):
    """The folders of two hosts, which share neither images nor runs."""
    both = tmp_path / "first", tmp_path / "second"
    for folder in both:
        folder.mkdir()
    return both


def describe_host(number):
    """Return the variables that torchrun sets for host `number` of two; the second's port is the first's."""
    if number == 0:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            describe_host.port = str(free.getsockname()[1])
    both = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": describe_host.port, "WORLD_SIZE": "2"}
    return {**both, "LOCAL_WORLD_SIZE": "1", "RANK": str(number), "LOCAL_RANK": "0"}


def start(folders, words, others=()):
    """Start train.py on both hosts, the second with other words after the first's; each prints to its folder's log."""
    for folder in folders:
        (folder / "log").write_text("")
    commands = words, [*words, *others]
    return [
        Forked("train.py", command, folder, folder / "log", **describe_host(number))
        for number, (folder, command) in enumerate(zip(folders, commands, strict=True))
    ]


def test_a_run_on_a_cpu_after_one_on_another_device_of_this_process(monkeypatch):
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")  # as a run before has set it
    assert start_processes(load_config(["device=cpu"])).device.type == "cpu"


def train(folders, words=WORDS, others=()):
    """Return the exit statuses of both hosts, and what each has printed."""
    return [one.status() for one in start(folders, words, others)], [(one / "log").read_text() for one in folders]


@pytest.mark.slow
def test_hosts_with_other_settings_tables_or_work_are_refused_by_one_line_on_both(folders):
    def assert_refused(line, others=()):
        statuses, printed = train(folders, others=others)
        assert statuses == [2, 2], printed
        for text in printed:
            errors = [one for one in text.splitlines() if one.startswith("error: ")]
            assert len(errors) == 1
            assert re.fullmatch(f"error: {line}", errors[0]), errors
            assert "Traceback" not in text

    host, advice = r"process 1 \(host [^)]+\)", "; give every host the same command, code and tables"
    assert_refused(f"{host}: optimizer.lr is 0.5, on process 0 0.004{advice}", ["optimizer.lr=0.5"])
    assert_refused(f"{host}: fold is null, on process 0 0 and 1 more{advice}", ["fold=null", "seed=8"])
    shutil.copytree(folders[1] / "data", folders[1] / "right")
    path = folders[1] / "data/demo/train.csv"
    table = pd.read_csv(path, dtype=str)
    table.loc[5, "label"] = str((int(table.loc[5, "label"]) + 1) % 10)
    table.to_csv(path, index=False)
    assert_refused(f"{host}: the table of rows is [0-9a-f]+, on process 0 [0-9a-f]+{advice}")
    shutil.copy(folders[1] / "right/demo/train.csv", path)
    (folders[1] / "outputs/both/fold0").mkdir(parents=True)
    (folders[1] / "outputs/both/fold0/meta.json").write_text("{}")
    first = r"start that host as the first \(--node_rank 0\), or share the folder"
    assert_refused(f"outputs/both: {host} holds the run's work, process 0 none; {first}")


@pytest.mark.nightly
def test_another_version_of_the_code_is_refused(folders, tmp_path):
    for name in ("src", "configs"):
        shutil.copytree(REPOSITORY / name, tmp_path / "code" / name)
    shutil.copy(REPOSITORY / "train.py", tmp_path / "code")
    with open(tmp_path / "code/src/training/fold.py", "a") as file:
        file.write("# changed\n")
    both = []
    for number, (folder, code) in enumerate(zip(folders, (REPOSITORY, tmp_path / "code"), strict=True)):
        command, environment = [sys.executable, str(code / "train.py"), *WORDS], describe_host(number)
        environment |= {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        both.append(subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True))
    for one in both:
        last = one.communicate()[1].splitlines()[-1]
        assert re.match(
            r"error: process 1 \(host .*\): the code in src is [0-9a-f]+, on process 0 [0-9a-f]+; give", last
        )


@pytest.mark.slow
def test_only_the_first_host_needs_the_folder_of_the_run(folders):
    """A state, the best epochs' weights, pixel statistics and what is unreadable reach the second over the network."""
    words = [
        *WORDS,
        "train.epochs=3",
        "train.average=soup",
        "train.select=best",
        "normalize=dataset",
        "unreadable=skip",
    ]
    for folder in folders:
        write_demo(folder / "data/demo")
        (folder / "data/demo/train/d0007.png").write_bytes(b"broken")
    assert train(folders, [*words, "name=whole"])[0] == [0, 0]
    both, fold = start(folders, words), folders[0] / "outputs/both/fold0"
    assert both[0].wait_for((fold / "state_0001_000006.pt").exists)
    for one in both:
        one.kill()
    statuses, printed = train(folders, words)
    assert statuses == [0, 0], printed
    assert "fold 0: resumes after" in printed[0]
    assert not (folders[1] / "outputs/both").exists()
    for name in ("best.safetensors", "val.csv"):
        assert (fold / name).read_bytes() == (folders[0] / "outputs/whole/fold0" / name).read_bytes(), name


@pytest.mark.nightly
def test_each_host_keeps_features_of_its_own(folders, tmp_path):
    weights = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_resnet", in_chans=1).state_dict(), weights)
    words = [*WORDS, "model.pretrained=true", f"model.weights={weights}", "model.kwargs={}", "model.freeze=head_only"]
    for _ in range(2):  # the second time they are there
        statuses, printed = train(folders, [*words, "overwrite=true"])
        assert statuses == [0, 0], printed
    assert "features of 1437 images" not in printed[0]
    names = [[path.name for path in folder.glob("outputs/cache/features_*.npy")] for folder in folders]
    assert [len(one) for one in names] == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule", ["onecycle", *(pytest.param(one, marks=pytest.mark.nightly) for one in ("cosine", "plateau"))]
)
def test_one_process_goes_on_after_an_epoch_of_two_at_the_rate_of_that_epoch(folders, schedule):
    """It takes twice as many steps."""
    words = [*WORDS, "train.epochs=4", "checkpoint_minutes=60", f"schedule.name={schedule}"]
    both, run = start(folders, words), folders[0] / "outputs/both/fold0"
    assert both[0].wait_for((run / "state_0002_000000.pt").exists)
    for one in both:
        one.kill()
    log = folders[0] / "log"
    for name in ("both", "alone"):
        assert Forked("train.py", [*words, f"name={name}"], folders[0], log).status() == 0, log.read_text()
    assert "fold 0: resumes after epoch 2" in log.read_text()
    rates = [pd.read_csv(folders[0] / "outputs" / name / "fold0/log.csv")["lr"][2:] for name in ("both", "alone")]
    np.testing.assert_allclose(rates[0], rates[1], rtol=1e-6)


@pytest.mark.slow
def test_two_processes_learn_as_one_with_twice_the_batch(folders):
    words = [*WORDS, "model.norm=layer", "train.average=ema"]  # BatchNorm would see half of each batch
    assert train(folders, words)[0] == [0, 0]
    one = [*words, "train.batch_size=16", "name=one"]
    assert Forked("train.py", one, folders[0], folders[0] / "log").status() == 0
    weights = [load_file(folders[0] / "outputs" / name / "fold0/last.safetensors") for name in ("both", "one")]
    for name, tensor in weights[0].items():
        np.testing.assert_allclose(tensor, weights[1][name], rtol=1e-3, atol=1e-4, err_msg=name)

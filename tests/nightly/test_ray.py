"""launcher=ray on a cluster of two nodes of this host: equal to one process, with a node lost in mid-fold, stopped."""

import os
import signal
import threading
import time

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from src.config.load import load_config
from src.launchers import Job
from src.training.seeds import build_launcher
from tests.launch import TINY, run_here

pytestmark = pytest.mark.nightly
MEMORY = {"object_store_memory": 100 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU each, besides the head's none."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **MEMORY})
    nodes = [cluster.add_node(num_cpus=1, **MEMORY) for _ in range(2)]
    yield cluster, nodes
    cluster.shutdown()


def train(cluster, folder, *words, status=0):
    words = [*TINY, "launcher=ray", "train.num_workers=0", f"ray_address={cluster[0].address}", *words]
    return run_here("train.py", *words, cwd=folder, status=status)


def list_jobs(run):
    """Return the processes of train.py that a launcher has started for a run, of all on this machine."""
    found = []
    for one in psutil.process_iter(["cmdline", "cwd"]):  # None where it may not be read
        words = one.info["cmdline"] or []
        if one.info["cwd"] == str(run.parents[1]) and {"launcher=null", f"name={run.name}"} <= set(words):
            found.append(one)
    return found


def list_raylets():
    """Return Ray's node processes that this one has started; there may be others on this machine."""
    return [one for one in psutil.Process().children(recursive=True) if "raylet" in one.name()]


def assert_same(folder, name, other):
    for file in ("oof.csv", "folds.csv", "fold0/last.safetensors", "fold1/last.safetensors"):
        assert (folder / f"outputs/{name}/{file}").read_bytes() == (folder / f"outputs/{other}/{file}").read_bytes()


def test_folds_and_seeds_as_tasks_are_those_of_one_process(cluster, tiny_run):
    folder, _ = tiny_run
    printed, _ = train(cluster, folder, "name=ray_folds", "precision=auto")
    assert "\n2 folds, 2 at a time\n" in printed
    run_here("train.py", *TINY, "precision=auto", "name=ray_alone", cwd=folder)
    assert_same(folder, "ray_folds", "ray_alone")
    printed, _ = train(cluster, folder, "name=ray_s", "seed=[7,8]")
    assert "\n4 folds, 2 at a time\n" in printed
    assert_same(folder, "ray_s_seed7", "demo_default")
    run_here("infer.py", "run=outputs/ray_folds", cwd=folder)
    run_here("infer.py", "run=outputs/ray_alone", cwd=folder)
    one, other = (folder / f"outputs/{name}/submission.csv" for name in ("ray_folds", "ray_alone"))
    assert one.read_bytes() == other.read_bytes()


def test_a_fold_whose_node_is_lost_resumes_on_another_and_ends_as_if_undisturbed(cluster, tiny_run):
    folder, _ = tiny_run
    words = ["train.epochs=12", "checkpoint_minutes=0", "train.max_images=null"]
    run, lost = folder / "outputs/ray_lost", []

    def lose_a_node():
        while not all(any(run.glob(f"fold{fold}/state_*.pt")) for fold in (0, 1)):
            time.sleep(0.01)
        lost.extend(list_jobs(run))
        cluster[0].remove_node(cluster[1].pop(), allow_graceful=False)

    thread = threading.Thread(target=lose_a_node, daemon=True)
    thread.start()
    try:
        printed, _ = train(cluster, folder, *words, "name=ray_lost")
        thread.join()
    finally:  # the tests after this one need two
        cluster[1].append(cluster[0].add_node(num_cpus=1, **MEMORY))
    assert len(lost) == 2
    logs = [(run / f"fold{fold}.log").read_text() for fold in (0, 1)]
    print(printed, *logs)
    assert sum("resumes after" in log for log in logs) == 1
    assert printed.count(": roc_auc 0.") == 2
    run_here("train.py", *TINY, *words, "name=ray_whole", cwd=folder)
    assert_same(folder, "ray_lost", "ray_whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_has_the_tasks_save_and_the_same_command_resumes(cluster, tiny_run, number):
    folder, _ = tiny_run
    words, name = ["train.epochs=20", "checkpoint_minutes=1000", "train.max_images=null"], f"ray_stop{int(number)}"
    run = folder / f"outputs/{name}"

    def stop():
        while not all(any(run.glob(f"fold{fold}/log.csv")) for fold in (0, 1)):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    _, error = train(cluster, folder, *words, f"name={name}", status=128 + number)
    assert error.splitlines()[-1].startswith("fold 0, fold 1: not finished, stopped by ")
    assert list_jobs(run) == []
    assert all("stopped by SIGTERM" in (run / f"fold{fold}.log").read_text() for fold in (0, 1))
    train(cluster, folder, *words, f"name={name}")
    assert all(f"fold {fold}: resumes after" in (run / f"fold{fold}.log").read_text() for fold in (0, 1))


def test_a_task_of_which_the_worker_is_killed_is_started_again_and_the_first_one_ends(cluster, tiny_run):
    folder, _ = tiny_run
    words = ["fold=0", "train.epochs=12", "checkpoint_minutes=0", "train.max_images=null", "name=ray_worker"]
    run, killed = folder / "outputs/ray_worker", []

    def kill():
        while not any(run.glob("fold0/state_*.pt")):
            time.sleep(0.01)
        (job,) = list_jobs(run)
        killed.append(job)
        job.parent().kill()

    threading.Thread(target=kill, daemon=True).start()
    train(cluster, folder, *words)
    assert not killed[0].is_running()
    log = (run / "fold0.log").read_text()
    assert log.index("stopped by SIGTERM") < log.index("fold 0: resumes after")


def test_what_no_node_has_and_no_cluster_are_refused(cluster, tiny_run):
    folder, _ = tiny_run
    _, error = train(cluster, folder, "name=ray_no", "threads=2", status=2)
    found = "launcher=ray: a task takes 2 CPUs, the largest node has 1; set threads=1 train.num_workers=0"
    assert error == f"error: {found}\n"
    _, error = train(cluster, folder, "name=ray_no", "device=cuda", status=2)
    assert error == "error: device=cuda: no node of Ray gives it to a task; set device=auto or device=cpu\n"
    assert not (folder / "outputs/ray_no").exists()


def test_without_an_address_a_ray_of_this_machine_comes_and_goes(tiny_run):
    folder, _ = tiny_run
    assert not ray.is_initialized()
    before = list_raylets()  # of the cluster
    run_here("train.py", *TINY, "launcher=ray", "train.num_workers=0", "name=ray_here", cwd=folder)
    assert_same(folder, "ray_here", "demo_default")
    assert [one for one in list_raylets() if one not in before] == []


def test_a_task_that_cannot_begin_on_its_node_says_why(tmp_path, monkeypatch):
    job = Job("fold 0", ("fold=0",), tmp_path / "fold0.log")
    with build_launcher(load_config(["launcher=ray", "threads=1", "train.num_workers=0"])) as launcher:
        monkeypatch.setattr(os, "getcwd", lambda: "/nowhere")
        [(_, status, line)] = launcher.run([job])
    assert status == 2
    assert line.startswith("error: launcher=ray: the task failed (FileNotFoundError: ")

"""A real run, killed, stopped, short of disk and of processes: what it says, and that it ends as if undisturbed.

KILL_SEED=7 python -m pytest tests/programs/test_interruption.py -k killed: twenty other moments.
"""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from statistics import median

import psutil
import pytest

from src.config.settings import REPOSITORY
from tests.launch import TINY, Forked

# Everything that has a state of its own: dropout, mixing, accumulation, an average, a schedule; saved after each step.
WORDS = [
    *TINY, "num_folds=3", "train.epochs=3", "train.max_images=224", "mix.prob=0.5", "model.drop_rate=0.2",
    "train.average=ema", "train.average_kwargs.decay=0.9",
    "optimizer.accumulate_steps=2", "schedule.name=onecycle", "checkpoint_minutes=0",
]  # fmt: skip
TRAINED = ("oof.csv", *(f"fold{n}/last.safetensors" for n in range(3)))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A folder with a finished run `outputs/whole` of WORDS and its submission."""
    folder = tmp_path_factory.mktemp("survival")
    for program, words in (("train.py", [*WORDS, "name=whole"]), ("infer.py", ["run=outputs/whole"])):
        assert Forked(program, words, folder, folder / "whole.log").status() == 0, (folder / "whole.log").read_text()
    return folder


def assert_same(folder, name, files=(*TRAINED, "submission.csv")):
    for result in files:
        one, other = (folder / "outputs" / run / result for run in ("whole", name))
        assert one.read_bytes() == other.read_bytes(), result


@pytest.mark.slow
def test_a_run_killed_at_twenty_moments_ends_as_if_it_had_not_been(undisturbed):
    folder, chance = undisturbed, random.Random(int(os.environ.get("KILL_SEED", "0")))
    run, cache, log = folder / "outputs/killed", folder / "outputs/cache", folder / "killed.log"

    def anything():
        return True

    def is_cached():
        return any(cache.glob("*.part"))

    def is_saving():
        return any(run.glob("fold*/.state_*.tmp"))

    def is_stepping():
        return any(run.glob("fold*/state_*.pt"))

    train, infer = ("train.py", [*WORDS, "name=killed"]), ("infer.py", ["run=outputs/killed"])

    def kill_once(program, words, condition, longest):
        """Kill the program at a random moment after the condition; a run that is whole before is started anew."""
        while True:
            if condition is is_cached:
                shutil.rmtree(cache, ignore_errors=True)
            forked = Forked(program, words, folder, log)
            forked.wait_for(condition)
            time.sleep(chance.uniform(0, longest))
            is_killed = forked.is_running()
            forked.kill()
            if is_killed:
                return
            longest /= 2
            if program == "train.py" and (run / "scores.json").exists():
                assert_same(folder, "killed", TRAINED)
                shutil.rmtree(run)

    moments = [(anything, 0.8)] * 3 + [(is_cached, 0.1)] * 4 + [(is_saving, 0.002)] * 5 + [(is_stepping, 1.0)] * 5
    for condition, longest in chance.sample(moments, len(moments)):
        kill_once(*train, condition, longest)
    assert Forked(*train, folder, log).status() == 0, log.read_text()
    for _ in range(3):
        kill_once(*infer, anything, 0.8)
    assert Forked(*infer, folder, log).status() == 0, log.read_text()
    assert_same(folder, "killed")
    assert not [path for path in run.rglob("*") if path.name.endswith(".tmp") or path.name.startswith("state_")]
    assert re.search(r"fold \d: resumes after \d+ of 7 batches of epoch \d", log.read_text())


@pytest.mark.slow
@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_signal_saves_and_says_how_to_resume(undisturbed, number, name):
    folder, words = undisturbed, [*WORDS, f"name={name}", "checkpoint_minutes=60"]
    log, run = folder / f"{name}.log", folder / "outputs" / name
    forked = Forked("train.py", words, folder, log)
    forked.wait_for((run / "fold1/last.safetensors").exists)
    os.kill(forked.pid, number)
    assert forked.status() == 128 + number
    last = log.read_text().splitlines()[-1]
    assert re.fullmatch(
        rf"fold 1: stopped by {name} after \d+ of 7 batches of epoch \d; saved, the same command resumes",
        last,
    )
    assert json.loads((run / "scores.json").read_text())["folds"].keys() == {"0"}
    for program, again in (("train.py", words), ("infer.py", [f"run=outputs/{name}"])):
        assert Forked(program, again, folder, log).status() == 0
    assert_same(folder, name)


@pytest.mark.slow
def test_a_signal_to_the_whole_group_leaves_the_loader_processes_to_the_main_one(undisturbed):
    """As `timeout` and torchrun send it."""
    folder, run = undisturbed, undisturbed / "outputs/group"
    command = [sys.executable, str(REPOSITORY / "train.py"), *WORDS, "name=group", "train.num_workers=1", "cache=off"]
    command += ["num_folds=2", "train.epochs=2"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        command, cwd=folder, env=environment, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True,
    ) as process:  # fmt: skip
        while not any(run.glob("fold1/state_*.pt")):
            assert process.poll() is None
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGTERM)
        printed = process.communicate()[1]
    assert process.returncode == 143, printed
    assert re.fullmatch(r"fold 1: stopped by SIGTERM after \d+ of 7 batches of epoch \d; .*", printed.splitlines()[-1])
    assert json.loads((run / "scores.json").read_text())["folds"].keys() == {"0"}
    log = folder / "group.log"
    again = Forked("train.py", [*command[2:], "train.num_workers=0"], folder, log)
    again.wait_for(lambda: log.exists() and "fold 1: resumes after" in log.read_text())
    again.kill()
    assert "fold 1: resumes after" in log.read_text()


@pytest.mark.slow
def test_a_time_budget_ends_in_time_and_leaves_a_run_to_infer_with(undisturbed):
    folder, log = undisturbed, undisturbed / "budget.log"
    words = [*WORDS, "name=budget", "train.epochs=500", "fold=0"]
    assert Forked("train.py", [*words, "time_budget=0.01s"], folder, log).status() == 0
    too_late = "stopped by the end of time_budget; the same command resumes from what is saved\n"
    assert log.read_text().endswith(too_late)
    began = time.monotonic()
    first = Forked("train.py", words, folder, log)
    assert first.wait_for((folder / "outputs/budget/fold0/val.csv").exists)
    epoch = time.monotonic() - began  # with its start, however slow the machine
    first.kill()
    budget, began = 4 + 2 * epoch, time.monotonic()
    assert Forked("train.py", [*words, f"time_budget={budget:.1f}s"], folder, log).status() == 0
    assert time.monotonic() - began < budget + 1 + epoch
    assert "fold 0: stopped by the end of time_budget after " in log.read_text().splitlines()[-1]
    assert Forked("infer.py", ["run=outputs/budget"], folder, log).status() == 0
    printed = log.read_text()
    assert "outputs/budget: no fold is finished; the last saved epoch is used (fold0)" in printed
    assert "submission.csv: 360 rows, checked" in printed


FULL_DISK = """
import os, shutil, subprocess
from pathlib import Path
from tests.launch import run_here

def mount(*words):
    subprocess.run(["mount", *words, "outputs"], check=True)

def train(*more, status=0):
    return run_here("train.py", *WORDS, "name=full", "fold=0", *more, cwd=".", status=status)

os.mkdir("outputs")
mount("-t", "tmpfs", "-o", "size=16m", "tmpfs")
Path("outputs/.mounted").touch()
train("train.epochs=1", "name=cleans", "keep_checkpoints=2")
shutil.rmtree("outputs/cleans")
mount("-o", "remount,size=9m")
Path("full.err").write_text(train(status=2)[1])
Path("full.files").write_text("\\n".join(os.listdir("outputs/full/fold0")))
mount("-o", "remount,size=64m")
Path("again.out").write_text(train()[0])
shutil.copy("outputs/full/fold0/last.safetensors", ".")
"""


@pytest.mark.slow
@pytest.mark.skipif(subprocess.run(["unshare", "-rm", "true"]).returncode != 0, reason="cannot mount a small disk")
def test_a_full_disk_ends_with_one_line_and_loses_nothing(undisturbed, tmp_path):
    """A state is 6 MB here: three of them do not fit into 16 MB, two not into 9."""
    shutil.copytree(undisturbed / "data", tmp_path / "data")
    command = ["unshare", "-rm", sys.executable, "-c", f"WORDS = {WORDS}{FULL_DISK}"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    error = (tmp_path / "full.err").read_text()
    why = "No space left on device; free some disk space and run the same command again (without overwrite=true)"
    assert re.fullmatch(rf"error: outputs/full/fold0/[\w.]+: {re.escape(why)}\n", error)
    assert re.search(r"^state_0000_00000\d\.pt$", (tmp_path / "full.files").read_text(), re.MULTILINE)
    assert "fold 0: resumes after" in (tmp_path / "again.out").read_text()
    whole = undisturbed / "outputs/whole/fold0/last.safetensors"
    assert (tmp_path / "last.safetensors").read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_a_killed_loader_worker_ends_with_one_line_and_the_run_resumes(undisturbed):
    folder, log, run = undisturbed, undisturbed / "worker.log", undisturbed / "outputs/worker"
    words = [*WORDS, "name=worker", "fold=0", "train.num_workers=2", "cache=off"]
    forked = Forked("train.py", words, folder, log)
    assert forked.wait_for(lambda: any(run.glob("fold0/state_*.pt")))
    psutil.Process(forked.pid).children()[0].kill()
    assert forked.status() == 2
    assert log.read_text().splitlines()[-1] == (
        "error: a loader worker was killed, most often because memory ran out; lower train.num_workers or "
        "train.batch_size and run the same command again (without overwrite=true) to resume"
    )
    states = sorted(run.glob("fold0/state_*.pt"))
    again = Forked("train.py", words, folder, log)
    assert again.wait_for(lambda: sorted(run.glob("fold0/state_*.pt"))[-1] > states[-1])
    again.kill()
    assert "fold 0: resumes after" in log.read_text()


@pytest.mark.slow
def test_two_processes_train_other_folds_of_a_run_but_not_the_same(undisturbed):
    folder, log, run = undisturbed, undisturbed / "two.log", undisturbed / "outputs/two"
    words = [*WORDS, "name=two"]
    first = Forked("train.py", [*words, "fold=0", "train.epochs=30"], folder, log)
    assert first.wait_for(lambda: any(run.glob("fold0/state_*.pt")))
    refusals = {
        ("fold=0", "train.epochs=30"): "another process trains fold 0; wait until it ends or choose name=ANOTHER",
        ("fold=1", "train.epochs=30", "overwrite=true"): "another process trains fold 0; wait until it ends or choose ",
        ("fold=1", "train.epochs=3"): "trained with other settings: train.epochs=3 (was 30); choose name=ANOTHER or ",
    }
    for more, line in refusals.items():
        refused = folder / "refused.log"
        refused.write_text("")
        assert Forked("train.py", [*words, *more], folder, refused).status() == 2
        assert f"\nerror: outputs/two: {line}" in refused.read_text()
    first.kill()
    both = [Forked("train.py", [*words, f"fold={fold}", "train.epochs=30"], folder, log) for fold in (0, 1)]
    assert all(one.wait_for(lambda: any(run.glob("fold1/last.safetensors"))) for one in both), log.read_text()
    for one in both:
        one.kill()
    assert "fold 0: resumes after" in log.read_text()


@pytest.mark.slow
def test_two_processes_that_train_one_fold_resume_mid_epoch(undisturbed):
    """They look at the clock after every tenth step, and save together; started as torchrun starts them."""
    folder, log = undisturbed, undisturbed / "pair.log"
    words = [*WORDS, "fold=0", "train.batch_size=4", "train.epochs=2", "device=cpu"]

    def start(name):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        shared |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        return [
            Forked("train.py", [*words, f"name={name}"], folder, log, RANK=rank, LOCAL_RANK=rank, **shared)
            for rank in ("0", "1")
        ]

    assert [one.status() for one in start("pair")] == [0, 0], log.read_text()
    killed, fold = start("pair_killed"), folder / "outputs/pair_killed/fold0"
    assert killed[0].wait_for(lambda: any(fold.glob("state_0000_*.pt")))  # after 20 batches, as two make a step
    for one in killed:
        one.kill()
    assert [one.status() for one in start("pair_killed")] == [0, 0], log.read_text()
    assert "fold 0: resumes after" in log.read_text()
    for name in ("last.safetensors", "val.csv"):
        one, other = (folder / "outputs" / run / "fold0" / name for run in ("pair", "pair_killed"))
        assert one.read_bytes() == other.read_bytes(), name


@pytest.mark.nightly
def test_two_thousand_steps_and_fifty_epochs_need_no_more_memory(undisturbed):
    folder, log, run = undisturbed, undisturbed / "memory.log", undisturbed / "outputs/memory"
    words = [*TINY, "name=memory", "fold=0", "train.epochs=50", "train.batches_per_epoch=40", "train.batch_size=16"]
    forked = Forked("train.py", words, folder, log)
    resident, seen = {}, 0
    while forked.is_running():
        path = run / "fold0/log.csv"
        num_epochs = len(path.read_text().splitlines()) - 1 if path.exists() else 0
        if num_epochs > seen:
            seen = num_epochs
            resident[seen] = psutil.Process(forked.pid).memory_info().rss
        time.sleep(0.005)
    assert forked.status() == 0
    early, late = (median(resident[n] for n in resident if low <= n < low + 10) for low in (5, 40))
    print(f"resident memory: {early / 1e6:.1f} MB at epochs 5 to 14, {late / 1e6:.1f} MB at epochs 40 to 49")
    assert late < 1.02 * early


def test_a_closed_pipe_ends_in_silence(tmp_path):
    """python train.py --help all | head -1"""
    command = f"{sys.executable} {REPOSITORY}/train.py --help all | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.startswith("usage: python train.py")
    assert done.stderr == ""

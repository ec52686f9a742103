"""The local launcher: a queue of jobs over slots; each has its device and words, and all save when they are stopped."""

import signal
import subprocess
import sys
import time
from itertools import islice

import pytest

from src import launchers
from src.config.load import load_config
from src.errors import UserError
from src.launchers import Job, LocalLauncher

PROGRAM = """
import os, signal, sys, time
name, seconds, status = [word for word in sys.argv[1:] if "=" not in word]
def save(*_):
    print("saved", *sys.argv[4:], flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("begin", name, os.environ.get("CUDA_VISIBLE_DEVICES"), time.monotonic(), flush=True)
time.sleep(float(seconds))
print("end", time.monotonic(), "\\n")
if status != "0":
    print("failed", file=sys.stderr)
sys.exit(int(status))
"""


@pytest.fixture
def make_job(tmp_path, monkeypatch):
    """Make a job of a program that sleeps and ends with a status, in place of train.py."""
    (tmp_path / "train.py").write_text(PROGRAM)
    monkeypatch.setattr(launchers, "REPOSITORY", tmp_path)
    return lambda name, seconds=0.0, status=0: Job(name, (name, str(seconds), str(status)), tmp_path / f"{name}.log")


def test_each_slot_takes_the_next_job_when_it_is_free_and_a_job_s_end_is_told(make_job):
    jobs = [make_job("a", 60), make_job("b"), make_job("c", status=2), make_job("d")]
    with LocalLauncher([{"CUDA_VISIBLE_DEVICES": "GPU-x"}, {"CUDA_VISIBLE_DEVICES": "5"}]) as launcher:
        ended = [(job.name, status, line.split()[0]) for job, status, line in islice(launcher.run(jobs), 3)]
        launcher.stop(jobs[1])  # which has ended, as a trial's other folds may have when it is pruned
    assert sorted(ended) == [("b", 0, "end"), ("c", 2, "failed"), ("d", 0, "end")]
    begun = {job.name: job.log.read_text().split()[2] for job in jobs}
    assert begun == {"a": "GPU-x", "b": "5", "c": "5", "d": "5"}


def test_when_the_block_ends_by_an_exception_and_when_asked_all_are_stopped_and_have_saved(make_job):
    a, b = make_job("a", 60), make_job("b", 60)

    def fail_once_they_run():
        if all(job.log.is_file() and job.log.read_text().startswith("begin") for job in (a, b)):
            raise UserError("another job has failed")

    with pytest.raises(UserError), LocalLauncher([{}, {}], ["train.num_workers=0"]) as launcher:
        list(launcher.run([a, b], fail_once_they_run))
    words = "train.num_workers=0 launcher=null ray_address=null overwrite=false"
    assert [job.log.read_text().splitlines()[-1] for job in (a, b)] == [f"saved {words}"] * 2
    c, d = make_job("c", 60), make_job("d")
    with LocalLauncher([{}]) as launcher:
        ended = list(launcher.run([c, d], lambda: c.log.is_file() and "begin" in c.log.read_text()))
    assert [(job.name, status) for job, status, _ in ended] == [("c", 143)]
    assert not d.log.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="a process learns of its parent's death on Linux alone")
def test_a_job_saves_and_ends_when_what_started_it_is_killed(make_job, tmp_path):
    job = make_job("a", 60)
    code = f"""
import sys
from pathlib import Path
from src import launchers
launchers.REPOSITORY = Path({str(tmp_path)!r})
with launchers.LocalLauncher([{{}}]) as launcher:
    list(launcher.run([launchers.Job("a", {job.words!r}, Path({str(job.log)!r}))]))
"""
    parent = subprocess.Popen([sys.executable, "-c", code])
    while not (job.log.is_file() and "begin" in job.log.read_text()):
        time.sleep(0.01)
    parent.send_signal(signal.SIGKILL)
    until = time.monotonic() + 60
    while "saved" not in job.log.read_text() and time.monotonic() < until:
        time.sleep(0.01)
    assert "saved" in job.log.read_text()


def test_an_address_without_ray_and_another_launcher_are_refused():
    with pytest.raises(UserError, match="^ray_address=auto: is of launcher=ray; set that, or leave ray_address out$"):
        load_config(["ray_address=auto"])
    with pytest.raises(UserError, match="^launcher=dask: not one of local, ray, nor null"):
        load_config(["launcher=dask"])
    with pytest.raises(UserError, match="^output_dir=s3://b/c: is no folder; set output_dir=FOLDER, shared"):
        load_config(["output_dir=s3://b/c"])
    assert load_config(["launcher=null"]).launcher is None

"""What several test files share, and how test processes beside each other share the cores."""

import multiprocessing
import os
import signal
from collections import Counter
from functools import partial

import pytest

from tests.launch import TINY, WORK, Forked

if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    # each has cores of its own, before torch counts them: threads that fight for cores take ten times as long
    number, count = int(os.environ["PYTEST_XDIST_WORKER"][2:]), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[number % count :: count] or cores)  # there may be fewer than processes

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as of a shell's background job; programs would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Files with the most slow tests come first: one that is left for the end would keep a single process busy."""
    num_slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -num_slow[item.path])


def pytest_sessionfinish():
    """What a failed test has left running would be waited for as this process ends: for ever, perhaps."""
    for process in multiprocessing.active_children():
        process.kill()


@pytest.fixture
def few_samples(monkeypatch):
    """Bootstraps of scores.json draw a tenth of their samples, as in the programs of tests.launch."""
    monkeypatch.setattr("src.evaluation.judgement._WORK", WORK)


@pytest.fixture
def quick(monkeypatch):
    """Files elsewhere are waited for, and asked for again, within fractions of a second."""
    monkeypatch.setattr("src.remote._PAUSE", 0.001)
    monkeypatch.setattr("src.remote._SECONDS", {"total": 0.8, "sock_connect": 0.6, "sock_read": 0.6})


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A folder with a finished run `outputs/demo_default` of the embedded competition, and what training printed."""
    folder = tmp_path_factory.mktemp("tiny")
    log = folder / "printed"
    assert Forked("train.py", TINY, folder, log).status() == 0, log.read_text()
    return folder, log.read_text()


@pytest.fixture
def accelerator():
    """One process on the CPU in fp32, with one thread, whatever run an earlier test has made in this process."""
    import torch  # here, since most tests need none of these
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    torch.set_num_threads(1)  # threads that fight other programs for the cores take ten times as long
    AcceleratorState._reset_state(reset_partial_state=True)  # which all Accelerators share, with its precision
    return Accelerator(cpu=True)


@pytest.fixture
def make_table(tmp_path):
    from tests import runs

    return partial(runs.make_table, tmp_path)


@pytest.fixture
def make_run(tmp_path, accelerator):
    from tests import runs

    return partial(runs.make_run, tmp_path, accelerator)

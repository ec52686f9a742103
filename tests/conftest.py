"""What several test files share, and how test processes beside each other share the cores."""

import os

import pytest

from tests.launch import TINY, Forked

if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    # each has cores of its own, before torch counts them: threads that fight for cores take ten times as long
    number, count = int(os.environ["PYTEST_XDIST_WORKER"][2:]), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[number::count])


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A folder with a finished run `outputs/demo_default` of the embedded competition, and what training printed."""
    folder = tmp_path_factory.mktemp("tiny")
    log = folder / "printed"
    assert Forked("train.py", TINY, folder, log).status() == 0, log.read_text()
    return folder, log.read_text()

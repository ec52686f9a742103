"""Every test here starts with one process on the CPU in fp32."""

from functools import partial

import pytest

from tests import runs


@pytest.fixture(autouse=True)
def one_process(accelerator):
    pass


@pytest.fixture
def make_table(tmp_path):
    return partial(runs.make_table, tmp_path)


@pytest.fixture
def make_run(tmp_path, accelerator):
    return partial(runs.make_run, tmp_path, accelerator)

"""No weights of the machine that the tests run on, and one thread: on busy cores several wait for each other."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _no_weights_variable(monkeypatch):
    monkeypatch.delenv("WEIGHTS", raising=False)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

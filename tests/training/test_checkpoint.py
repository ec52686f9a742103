"""Weights and states come back as they were; damage is named in one line."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from src.errors import UserError
from src.training.checkpoint import load_state, load_weights, save_state, save_weights
from src.training.fold import _copy


def test_weights_come_back_bit_for_bit(tmp_path):
    one, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    one(torch.randn(8, 3))
    save_weights(tmp_path / "a" / "best.safetensors", one.state_dict())
    load_weights(tmp_path / "a" / "best.safetensors", other)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["best.safetensors"]


def test_a_damaged_or_foreign_file_is_one_line(tmp_path):
    path = tmp_path / "best.safetensors"
    for content in (b"", b"not safetensors"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="best.safetensors: cannot be loaded"):
            load_weights(path, nn.Linear(2, 2))
    save_weights(path, nn.Linear(2, 3).state_dict())
    with pytest.raises(UserError, match="best.safetensors: cannot be loaded"):
        load_weights(path, nn.Linear(2, 2))


def test_a_state_is_plain_and_nothing_else_is_loaded(tmp_path):
    state = {
        "network": {"w": torch.arange(3.0)},
        "progress": {"epoch": 2, "best_score": float("-inf"), "log": [{"a": 1}]},
    }
    save_state(tmp_path / "last.pt", state)
    loaded = load_state(tmp_path / "last.pt")
    assert torch.equal(loaded["network"]["w"], torch.arange(3.0))
    assert loaded["progress"] == state["progress"]
    torch.save(nn.Linear(1, 1), tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"last.pt: damaged \(UnpicklingError\)"):
        load_state(tmp_path / "last.pt")
    (tmp_path / "last.pt").write_bytes(b"PK\x03\x04half")
    with pytest.raises(UserError, match="last.pt: damaged"):
        load_state(tmp_path / "last.pt")


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads of /proc")
def test_writing_beside_the_training_starts_none_of_torchs_threads(tmp_path):
    before, tensor = torch.get_num_threads(), torch.ones(2000, 1000)
    torch.set_num_threads(2)
    try:
        tensor + tensor  # starts those of this thread
        with ThreadPoolExecutor(1) as writer:
            writer.submit(int).result()
            num_threads = len(os.listdir("/proc/self/task"))
            state = _copy({"network": {"weight": tensor.t()}})
            writer.submit(save_state, tmp_path / "last.pt", state).result()
            writer.submit(save_weights, tmp_path / "best.safetensors", state["network"]).result()
            assert len(os.listdir("/proc/self/task")) == num_threads
            writer.submit(lambda: tensor + tensor).result()
            assert len(os.listdir("/proc/self/task")) > num_threads  # or the test would see nothing
    finally:
        torch.set_num_threads(before)
    assert torch.equal(load_state(tmp_path / "last.pt")["network"]["weight"], tensor.t())

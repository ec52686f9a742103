"""Weights and states come back as they were; damage is named in one line."""

import pytest
import torch
from torch import nn

from src.errors import UserError
from src.training.checkpoint import load_state, load_weights, save_state, save_weights


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

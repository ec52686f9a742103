"""Weights and states come back as they were; damage is named in one line."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from src.checkpointing.serialization import (
    copy_to_cpu,
    list_states,
    load_newest_state,
    load_state,
    load_weights,
    save_state,
    save_weights,
)
from src.errors import UserError


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
    save_state(tmp_path, 2, 7, state, keep=2)
    path, loaded = load_newest_state(tmp_path)
    assert path == tmp_path / "state_0002_000007.pt"
    assert torch.equal(loaded["network"]["w"], torch.arange(3.0))
    assert loaded["progress"] == state["progress"]
    torch.save(nn.Linear(1, 1), path)
    with pytest.raises(UserError):
        load_newest_state(tmp_path)  # whole, so that nothing before it is used
    with pytest.raises(UserError, match=r"state_0002_000007.pt: holds more than numbers and words, which could"):
        load_state(path)


def test_a_damaged_state_is_named_and_the_one_before_it_is_used(tmp_path, capsys):
    for number in range(1, 4):
        save_state(tmp_path, 0, number, {"w": torch.full((100,), float(number))}, keep=3)
    one, two, three = list_states(tmp_path)
    content = bytearray(three.read_bytes())
    content[content.index(torch.full((100,), 3.0).numpy().tobytes()) + 30] ^= 1  # one bit of a weight
    three.write_bytes(content)
    two.write_bytes(two.read_bytes()[:200])
    path, state = load_newest_state(tmp_path)
    assert (path, state["w"][0].item()) == (one, 1.0)
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == [str(three), str(two)]
    assert said[0].endswith("is another); deleted, the one before it is used")
    one.write_bytes(b"")
    assert load_newest_state(tmp_path) == (None, None)
    assert not list_states(tmp_path)


def test_as_many_states_stay_as_are_to_be_kept(tmp_path):
    for epoch, num_batches in ((0, 9), (0, 10), (9, 0), (10, 0)):
        save_state(tmp_path, epoch, num_batches, {}, keep=2)
    assert [path.name for path in list_states(tmp_path)] == ["state_0009_000000.pt", "state_0010_000000.pt"]


def test_a_flipped_bit_in_weights_is_found(tmp_path):
    path = tmp_path / "best.safetensors"
    save_weights(path, {"weight": torch.ones(2, 2), "bias": torch.zeros(2)})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_weights(path, nn.Linear(2, 2))
    assert str(error.value) == (
        f"{path}: cannot be loaded (its checksum is another); delete {tmp_path} and train that fold again"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="counts the threads of /proc")
def test_writing_beside_the_training_starts_none_of_torchs_threads(tmp_path):
    before, tensor = torch.get_num_threads(), torch.ones(2000, 1000)
    torch.set_num_threads(2)
    try:
        tensor + tensor  # starts those of this thread
        with ThreadPoolExecutor(1) as writer:
            writer.submit(int).result()
            num_threads = len(os.listdir("/proc/self/task"))
            state = copy_to_cpu({"network": {"weight": tensor.t()}})
            writer.submit(save_state, tmp_path, 1, 0, state, 2).result()
            writer.submit(save_weights, tmp_path / "best.safetensors", state["network"]).result()
            assert len(os.listdir("/proc/self/task")) == num_threads
            writer.submit(lambda: tensor + tensor).result()
            assert len(os.listdir("/proc/self/task")) > num_threads  # or the test would see nothing
    finally:
        torch.set_num_threads(before)
    assert torch.equal(load_state(tmp_path / "state_0001_000000.pt")["network"]["weight"], tensor.t())

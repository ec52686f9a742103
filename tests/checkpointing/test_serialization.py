"""Weights and states come back as they were; damage is named in one line."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from src.checkpointing.run_folder import FoldFolder
from src.checkpointing.serialization import (
    copy_to_cpu,
    load_network,
    load_newest_state,
    load_state,
    load_weights,
    read_weights,
    save_state,
    save_weights,
)
from src.config.load import load_config
from src.errors import UserError
from src.files import save_json
from src.model.network import build_network


@pytest.fixture
def folder(tmp_path):
    return FoldFolder(tmp_path / "fold0")


@pytest.mark.parametrize(
    "words",
    [
        ["normalize=dataset"],
        ["normalize=center", "model.head_kwargs.widths=[8]", "train.select=best"],
        ["model.backbone=simple_cnn", "model.kwargs={}", "normalize=dataset"],
        ["model.backbone=resnet10t", "model.kwargs={}", "normalize=backbone", "model.pool=gem", "model.pretrained=true",
         "model.weights=gone.safetensors"],
    ],
    ids=["demo", "center", "own backbone", "pretrained"],
)  # fmt: skip
def test_a_network_is_reopened_as_it_was_trained(folder, words):
    """From the fold's folder and the config alone: no pixel statistics, no pretrained weights are looked for."""
    torch.manual_seed(0)
    config = load_config(["image_size=32", *words])
    network = build_network(config, 3, ([100.0], [50.0]), load_pretrained=False)
    images = torch.randint(0, 256, (4, 32, 32, 1), dtype=torch.uint8)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    network.eval()
    with torch.no_grad():
        expected = network(**network.normalize({"image": images}))
    save_weights(folder.weights(config.train.select), copy_to_cpu(network.state_dict()))
    save_json(folder.meta, {"target_names": ["a", "b", "c"]})
    torch.manual_seed(1)
    again = load_network(config, folder)
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(**again.normalize({"image": images})), expected)
    assert again.pixel_stats == network.pixel_stats


def test_the_weights_of_the_selected_epoch_are_the_ones_that_are_opened(folder):
    for select, value in (("best", 1.0), ("last", 2.0)):
        config = load_config([f"train.select={select}"])
        network = build_network(config, 2, ([0.0], [1.0]))
        nn.init.constant_(network.head.last.bias, value)
        save_weights(folder.weights(select), copy_to_cpu(network.state_dict()))
    save_json(folder.meta, {"target_names": ["a", "b"]})
    for select, value in (("best", 1.0), ("last", 2.0)):
        assert load_network(load_config([f"train.select={select}"]), folder).head.last.bias.tolist() == [value, value]
    folder.weights("last").unlink()
    with pytest.raises(UserError, match=r"fold0/last\.safetensors: cannot be loaded .*; delete .*fold0 and train"):
        load_network(load_config(["train.select=last"]), folder)


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
    with pytest.raises(UserError, match=r"best.safetensors: cannot be loaded \(weight is \(3, 2\), not \(2, 2\)\);"):
        load_weights(path, nn.Linear(2, 2))
    path.unlink()
    with pytest.raises(UserError, match="best.safetensors: cannot be loaded"):
        read_weights(path)


def test_a_state_is_plain_and_nothing_else_is_loaded(folder):
    state = {
        "network": {"w": torch.arange(3.0)},
        "progress": {"epoch": 2, "best_score": float("-inf"), "log": [{"a": 1}]},
    }
    save_state(folder, 2, 7, state, keep=2)
    path, loaded = load_newest_state(folder)
    assert path == folder.path / "state_0002_000007.pt"
    assert torch.equal(loaded["network"]["w"], torch.arange(3.0))
    assert loaded["progress"] == state["progress"]
    torch.save(nn.Linear(1, 1), path)
    with pytest.raises(UserError):
        load_newest_state(folder)  # whole, so that nothing before it is used
    with pytest.raises(UserError, match=r"state_0002_000007.pt: holds more than tensors and plain values, which could"):
        load_state(path)


def test_a_damaged_state_is_named_and_the_one_before_it_is_used(folder, capsys):
    for number in range(1, 4):
        save_state(folder, 0, number, {"w": torch.full((100,), float(number))}, keep=3)
    one, two, three = folder.states()
    content = bytearray(three.read_bytes())
    content[content.index(torch.full((100,), 3.0).numpy().tobytes()) + 30] ^= 1  # one bit of a weight
    three.write_bytes(content)
    two.write_bytes(two.read_bytes()[:200])
    path, state = load_newest_state(folder)
    assert (path, state["w"][0].item()) == (one, 1.0)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [str(three), str(two)]
    assert lines[0].endswith("differs); deleted, the state before it is used")
    one.write_bytes(b"")
    assert load_newest_state(folder) == (None, None)
    assert not folder.states()


def test_as_many_states_stay_as_are_to_be_kept(folder):
    for epoch, num_batches in ((0, 9), (0, 10), (9, 0), (10, 0)):
        save_state(folder, epoch, num_batches, {}, keep=2)
    assert [path.name for path in folder.states()] == ["state_0009_000000.pt", "state_0010_000000.pt"]


def test_a_flipped_bit_in_weights_is_found(tmp_path):
    path = tmp_path / "best.safetensors"
    save_weights(path, {"weight": torch.ones(2, 2), "bias": torch.zeros(2)})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_weights(path, nn.Linear(2, 2))
    assert str(error.value) == (
        f"{path}: cannot be loaded (its checksum differs); delete {tmp_path} and train that fold again"
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
            writer.submit(save_state, FoldFolder(tmp_path / "fold0"), 1, 0, state, 2).result()
            writer.submit(save_weights, tmp_path / "best.safetensors", state["network"]).result()
            assert len(os.listdir("/proc/self/task")) == num_threads
            writer.submit(lambda: tensor + tensor).result()
            assert len(os.listdir("/proc/self/task")) > num_threads  # or the test would see nothing
    finally:
        torch.set_num_threads(before)
    assert torch.equal(load_state(tmp_path / "fold0/state_0001_000000.pt")["network"]["weight"], tensor.t())

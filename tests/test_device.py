"""Devices and precisions by name; cores are shared, not fought for."""

import joblib
import pytest
import torch

from src.device import resolve_device, resolve_precision, share_cores
from src.errors import UserError

CPU = torch.device("cpu")


def test_auto_is_fp32_on_a_cpu_and_fp16_is_refused_there():
    assert resolve_precision("auto", CPU) == "fp32"
    assert resolve_precision("bf16", CPU) == "bf16"
    with pytest.raises(UserError, match="precision=fp16: a CPU has no fp16 training"):
        resolve_precision("fp16", CPU)


def test_a_device_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match="device=cuda:77: not on this machine"):
        resolve_device("cuda:77")
    with pytest.raises(UserError, match="device=gpu: not on this machine"):
        resolve_device("gpu")


def test_threads_and_loaders_together_fill_the_cores(monkeypatch):
    before = torch.get_num_threads()
    try:
        monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
        assert share_cores(CPU) == 2
        assert torch.get_num_threads() == 6
        assert share_cores(CPU, num_workers=3) == 3
        assert torch.get_num_threads() == 5
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        assert share_cores(CPU) == 0
        assert torch.get_num_threads() == 2
        assert share_cores(torch.device("cuda")) == 2
    finally:
        torch.set_num_threads(before)

"""Devices and precisions by name; cores are shared, not fought for."""

import os
import re
import time

import joblib
import psutil
import pytest
import torch

from src.config.load import load_config
from src.device import (
    OtherPrograms,
    ThreadGuard,
    autocast,
    choose_interface,
    has_bf16_units,
    loader_options,
    resolve_device,
    resolve_precision,
    set_switches,
    share_cores,
    share_machine,
    to_device,
)
from src.errors import UserError

CPU = torch.device("cpu")


def test_auto_is_fp32_on_a_cpu_and_fp16_is_refused_there():
    assert resolve_precision("auto", CPU) == "fp32"
    assert resolve_precision("bf16", CPU) == "bf16"
    with pytest.raises(UserError, match="precision=fp16: a CPU does not train in fp16; set precision=bf16"):
        resolve_precision("fp16", CPU)


def test_memory_is_copied_asynchronously_to_cuda_only():
    """From pinned memory; to MPS it would be wrong values, in silence."""

    class Tensor:
        device = CPU

        def contiguous(self):
            return self

        def pin_memory(self):
            return Pinned()

        def to(self, device, non_blocking=False):
            return device.type, non_blocking

    class Pinned(Tensor):
        def to(self, device, non_blocking):
            return device.type, non_blocking, "pinned"

    for name, expected in (("cuda", ("cuda", True, "pinned")), ("mps", ("mps", False)), ("cpu", ("cpu", False))):
        moved = to_device({"image": Tensor(), "deep": {"age": Tensor()}}, torch.device(name))
        assert moved == {"image": expected, "deep": {"age": expected}}
    assert torch.equal(to_device(torch.ones(2), CPU), torch.ones(2))


@pytest.mark.parametrize(
    ("capability", "isa", "is_there"),
    [
        ("AVX512", "", True),
        ("AVX512", "AVX512_CORE_BF16", True),
        ("AVX512", "DEFAULT", True),
        ("AVX512", "AVX512_CORE", False),
        ("AVX512", "AVX2", False),
        ("AVX512", "avx2_vnni_2", False),
        ("AVX2", "", False),
    ],
)
def test_bf16_needs_instructions_that_are_there_and_allowed(monkeypatch, capability, isa, is_there):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: True)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert has_bf16_units() == is_there


@pytest.mark.parametrize(("has_onednn", "knows"), [(True, True), (True, False), (False, True)])
def test_on_arm_onednn_knows_the_instructions(monkeypatch, has_onednn, knows):
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: has_onednn)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: knows)
    assert has_bf16_units() == (has_onednn and knows)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_forward_runs_in_its_precision(precision, dtype):
    with autocast(CPU, precision):
        assert torch.nn.functional.linear(torch.ones(2, 3), torch.ones(4, 3)).dtype == dtype


def test_a_device_that_is_not_there_is_one_line():
    for name in ("cuda:77", "gpu", "meta", "hpu"):
        with pytest.raises(UserError, match=f"device={name}: not on this machine"):
            resolve_device(name)


def test_a_gpu_that_is_there_and_cannot_be_used_says_why(monkeypatch):
    def refuse(*args, device):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCUDA ...")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch, "zeros", refuse)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    reason = r"\(CUDA error: no kernel image is available for execution on the device\)"
    with pytest.raises(UserError, match=f"^device=cuda: cannot be used {reason}; see nvidia-smi, or set device=cpu$"):
        resolve_device("auto")
    with pytest.raises(UserError, match="^device=cuda:1: not on this machine; set device=auto or device=cpu$"):
        resolve_device("cuda:1")


def test_more_processes_than_gpus_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(
        UserError, match="^device=cuda:1: not on this machine; start torchrun with --nproc_per_node 1, as"
    ):
        resolve_device("auto")


def test_gloo_takes_the_network_that_leads_to_the_master(monkeypatch):
    own = [(name, one.address) for name, all_of in psutil.net_if_addrs().items() for one in all_of]
    own = [(name, address) for name, address in own if re.fullmatch(r"[\d.]+", address) and address[:4] != "127."]
    if not own:
        pytest.skip("this machine has no network")
    name, address = own[0]
    for variable, value in {"MASTER_ADDR": address, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    for variable, value, expected in (
        ("LOCAL_WORLD_SIZE", "1", "mine"),  # what is set stays
        ("LOCAL_WORLD_SIZE", "2", None),  # all on one host
        ("LOCAL_WORLD_SIZE", "1", name),
    ):
        monkeypatch.setenv(variable, value)
        choose_interface()
        assert os.environ.get("GLOO_SOCKET_IFNAME") == expected
        monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)


def test_threads_and_loaders_together_fill_the_cores(monkeypatch):
    before = torch.get_num_threads()
    try:
        monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
        assert share_cores(CPU)[0] == 2
        assert torch.get_num_threads() == 6
        assert share_cores(CPU, num_workers=3)[0] == 3
        assert torch.get_num_threads() == 5
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        assert share_cores(CPU, threads=3)[0] == 0
        assert torch.get_num_threads() == 3
        assert share_cores(CPU)[0] == 0
        assert torch.get_num_threads() == 2
        assert share_cores(torch.device("cuda"))[0] == 2
    finally:
        torch.set_num_threads(before)


class Machine:
    """A clock that only steps move; a step takes as long as the machine's load and torch's threads make it."""

    def __init__(self, guard_of):
        self.now, self.others, self.seconds = 0.0, 0.0, {2: 0.1, 1: 0.15}
        self.guard = guard_of(lambda: self.others, lambda: self.now)

    def run(self, num_steps):
        """Return the threads of each step."""
        used = []
        for _ in range(num_steps):
            used.append(torch.get_num_threads())
            self.now += self.seconds[used[-1]]
            self.guard.after_step(self.seconds[used[-1]])
        return used


@pytest.mark.parametrize(
    ("words", "gpus", "slots", "num_workers"),
    [
        ([], 0, 1, None),
        (["threads=2"], 0, 1, None),  # nobody asked for processes
        (["launcher=local"], 0, 1, None),
        (["launcher=local", "threads=2"], 0, 4, "0"),
        (["launcher=local", "threads=2", "train.num_workers=1"], 0, 4, None),
        (["launcher=local", "threads=9"], 0, 1, None),
        ([], 2, ["0", "1"], "4"),
        (["device=cuda:1"], 2, 1, None),
        (["device=cpu", "launcher=local", "threads=4"], 2, 2, "1"),
        (["launcher=local"], "7,GPU-ab", ["7", "GPU-ab"], "4"),
    ],
)
def test_slots_are_the_visible_gpus_or_shares_of_the_cores(monkeypatch, words, gpus, slots, num_workers):
    visible = gpus if isinstance(gpus, str) else None
    monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", visible or "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 if visible else gpus)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    found, own, kind = share_machine(load_config(words))
    if isinstance(slots, int):
        assert found == [{}] * slots
    else:
        assert found == [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in slots]
    assert own == ([] if num_workers is None else [f"train.num_workers={num_workers}"])
    assert kind == ("cuda" if gpus and "device=cpu" not in words else "cpu")


@pytest.fixture
def machine():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield Machine(lambda others, clock: ThreadGuard(2, others, clock))
    torch.set_num_threads(before)


def test_an_undisturbed_run_keeps_its_threads(machine):
    assert machine.run(1000) == [2] * 1000
    machine.seconds = {2: 0.25, 1: 0.15}  # slower, but not several times
    assert machine.run(1000) == [2] * 1000


def test_a_busy_machine_gets_one_thread_until_it_is_free_again(machine, capsys):
    machine.run(30)
    machine.seconds = {2: 2.0, 1: 0.2}
    assert machine.run(20) == [2] * 3 + [1] * 17
    assert capsys.readouterr().out == (
        "other programs use the cores: 1 thread instead of 2 is 10.0 times as fast (threads=N keeps N)\n"
    )
    assert machine.run(300).count(2) == 2  # a step after 20 s and one after 40 more are tried and fail
    machine.seconds = {2: 0.1, 1: 0.15}
    assert machine.run(3000)[-1] == 2
    assert capsys.readouterr().out == ""


def test_a_machine_that_is_busy_from_the_start_is_seen_by_what_others_use(machine):
    machine.seconds, machine.others = {2: 2.0, 1: 0.2}, 1.5
    assert machine.run(20) == [2] * 3 + [1] * 17


def test_a_trial_that_is_slower_ends_at_once(machine, capsys):
    machine.seconds, machine.others = {2: 0.1, 1: 0.5}, 1.5
    assert machine.run(100) == [2] * 3 + [1] + [2] * 96
    assert capsys.readouterr().out == ""


def test_a_fixed_number_is_kept(machine):
    machine.guard = ThreadGuard(1)
    machine.seconds, machine.others = {2: 9.0, 1: 0.2}, 1.5
    assert machine.run(50) == [2] * 50
    before = torch.get_num_threads()
    try:
        _, machine.guard = share_cores(CPU, threads=2)
        assert machine.run(50) == [2] * 50
    finally:
        torch.set_num_threads(before)


def test_others_use_what_all_use_without_this_process_and_its_loader_workers(monkeypatch):
    monkeypatch.setattr(psutil, "cpu_count", lambda: 8)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    monkeypatch.setattr(psutil, "cpu_percent", lambda: 75.0)  # six of the eight cores
    monkeypatch.setattr(psutil.Process, "cpu_percent", lambda self: 250.0)  # two and a half of them
    assert OtherPrograms(num_workers=2).count() == pytest.approx(1.5)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 4)
    assert OtherPrograms(num_workers=2).count() == 0.0  # this process may use fewer cores than there are


def test_the_work_of_this_process_is_its_own():
    others, began = OtherPrograms(), time.process_time()
    while time.process_time() - began < 0.3:
        pass
    assert others._process.cpu_percent() > 1  # of one core; all that the machine does is at least this
    assert others.count() <= psutil.cpu_count()


@pytest.fixture
def default_switches():
    """torch's and ours, as they were, after a test."""
    before = torch.backends.cudnn.benchmark
    yield
    set_switches(torch.device("cuda"), {})
    torch.backends.cudnn.benchmark = before


@pytest.mark.filterwarnings("error::UserWarning")  # torch has an old API for TF32, too, which may warn
@pytest.mark.parametrize(
    ("tf32", "matmuls", "convolutions"),
    [("convolutions", "highest", True), ("all", "high", True), ("none", "highest", False)],
)
def test_switches_are_torch_s_on_cuda_and_can_be_read_back(default_switches, tf32, matmuls, convolutions):
    set_switches(torch.device("cuda"), {"tf32": tf32, "cudnn_benchmark": tf32 == "all"})
    assert torch.backends.cudnn.benchmark == (tf32 == "all")
    assert torch.get_float32_matmul_precision() == matmuls  # mixed APIs would raise, and the compiler reads it
    assert torch.backends.cuda.matmul.fp32_precision in ({"high": ("tf32",), "highest": ("ieee", "none")}[matmuls])
    assert (torch.backends.cudnn.conv.fp32_precision == "tf32") == torch.backends.cudnn.allow_tf32 == convolutions
    with torch.backends.cudnn.flags(enabled=True):  # which reads all of cuDNN's at once
        pass


def test_on_a_cpu_switches_leave_torch_alone_and_the_loader_takes_its_own(default_switches, monkeypatch):
    set_switches(CPU, {"prefetch_factor": 4, "pin_memory": False})
    assert not torch.backends.cudnn.benchmark
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert loader_options(2) == {
        "num_workers": 2, "persistent_workers": True, "pin_memory": False, "prefetch_factor": 4,
    }  # fmt: skip
    assert loader_options(0) == {"num_workers": 0, "persistent_workers": False, "pin_memory": False}
    set_switches(CPU, {})
    assert not loader_options(1)["pin_memory"]  # a run on the CPU leaves the GPU of its machine alone
    set_switches(torch.device("cuda"), {})
    assert loader_options(1)["pin_memory"]


def test_a_switch_that_does_not_exist_is_one_line():
    for kwargs, line in (
        ({"tf32": "high"}, "device_kwargs.tf32=high: not one of none, all"),
        ({"prefetch_factor": 0}, "device_kwargs.prefetch_factor=0: must be from 1 to 64"),
        ({"benchmark": True}, "device_kwargs: a device has no benchmark (it has "),
    ):
        with pytest.raises(UserError) as caught:
            set_switches(CPU, kwargs)
        assert str(caught.value).startswith(line)

"""Where tensors live, in which precision and memory order, and how the cores are shared out."""

import ctypes
import os
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace

import joblib
import torch

from src.errors import UserError
from src.files import load_json, save_json

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Execution:
    """How a network is computed: its precision (fp32, bf16 or fp16) and its memory order."""

    precision: str
    channels_last: bool

    def settle(self, config):
        """Return the config with these two in place of what it leaves open."""
        train = replace(config.train, channels_last=self.channels_last)
        return replace(config, precision=self.precision, train=train)


def resolve_device(name):
    """Return the torch.device that `name` asks for; auto takes cuda, then mps, then cpu.

    Raises:
        UserError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"  # torchrun's processes take a device each
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"device={name}: not on this machine; set device=auto or device=cpu") from None
    return device


def resolve_precision(name, device):
    """Return fp32, bf16 or fp16; auto takes bf16 on a GPU that has it, fp16 on older ones, fp32 elsewhere.

    Raises:
        UserError: fp16 on a CPU, where it is not supported for training.
    """
    if name == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if name == "fp16" and device.type == "cpu":
        raise UserError("precision=fp16: a CPU has no fp16 training; set precision=bf16 or precision=fp32")
    return name


def resolve_execution(config, device):
    """Return the Execution that the config asks for; what it leaves open goes by a rule, and nothing is timed.

    Raises:
        UserError: as `resolve_precision`.
    """
    return Execution(resolve_precision(config.precision, device), config.train.channels_last is not False)


def recall_execution(run_folder, config, device):
    """Return the Execution that a run keeps for this kind of device, in a precision that the config names; or None."""
    path = run_folder / "execution.json"
    kept = load_json(path).get(device.type) if path.is_file() else None
    if kept is None:
        return None
    precision = kept["precision"] if config.precision == "auto" else resolve_precision(config.precision, device)
    return Execution(precision, kept["channels_last"])


def keep_execution(run_folder, execution, device):
    """Write into a run's execution.json what it is computed with on this kind of device."""
    path = run_folder / "execution.json"
    kept = load_json(path) if path.is_file() else {}
    save_json(path, kept | {device.type: asdict(execution)})


def autocast(device, precision):
    """Return the context in which a forward runs in `precision`."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, _DTYPES[precision])


def share_cores(device, num_workers=None):
    """Divide this process's cores between torch and its loader processes; return the number of loader processes.

    On a CPU the forward wants every core, so that a few cores get no loaders and more get one for every four: busy
    loaders beside as many torch threads as there are cores make a step 10 to 20 times slower.

    Args:
        device: where the forward runs.
        num_workers: loader processes asked for; None: chosen here.
    """
    cores = max(1, joblib.cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if num_workers is None:
        num_workers = cores // 4 if device.type == "cpu" else min(cores, 8)
    if device.type == "cpu":
        torch.set_num_threads(max(1, cores - num_workers))
        _keep_freed_memory()
    return num_workers


def _keep_freed_memory():
    """Let glibc keep the large blocks that every step frees and takes again, instead of asking the kernel each time.

    On 2 cores this made mobilenetv2_100 at 128 px train about a fifth faster. Elsewhere than on Linux it does nothing.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, 1 << 30)
            mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)

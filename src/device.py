"""The device, the precision and memory format of a run on it, and how the cores are shared."""

import ctypes
import os
import platform
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace

import joblib
import torch

from src.errors import UserError


@dataclass(frozen=True)
class Execution:
    """How a network is computed: its precision (fp32, bf16 or fp16) and its memory format."""

    precision: str
    channels_last: bool

    def apply(self, config):
        """Return the config with these two in place of what it leaves open."""
        return replace(config, precision=self.precision, train=replace(config.train, channels_last=self.channels_last))


def resolve_device(name):
    """Return the torch.device that `name` asks for; auto takes cuda, then mps, then cpu."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"  # each process of torchrun has its own
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"device={name}: not on this machine; set device=auto or device=cpu") from None
    return device


def resolve_precision(name, device):
    """Return fp32, bf16 or fp16; auto takes bf16 on a GPU that has it, fp16 on older ones, fp32 elsewhere."""
    if name == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if name == "fp16" and device.type == "cpu":
        raise UserError("precision=fp16: a CPU does not train in fp16; set precision=bf16 or precision=fp32")
    return name


def has_bf16_units():
    """Whether this CPU multiplies bf16 by instructions of its own; without them bf16 is a tenth as fast as fp32.

    The variables ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA may forbid them. On Arm oneDNN asks the processor for all;
    on x86 AVX-512 alone is enough for its own answer, which knows its variable.
    """
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    largest = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    is_allowed = largest in ("", "ALL", "DEFAULT") or any(one in largest for one in ("BF16", "FP16", "AMX", "AVX10"))
    is_avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"  # which knows the other variable
    return is_allowed and is_avx512 and torch.cpu._is_avx512_bf16_supported()


def resolve_execution(config, device):
    """Return the Execution that the config asks for; what it leaves open follows a rule, and nothing is timed."""
    return Execution(resolve_precision(config.precision, device), config.train.channels_last is not False)


def autocast(device, precision):
    """Return the context in which a forward runs in `precision`."""
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtypes[precision])


def share_cores(device, num_workers=None):
    """Divide this process's cores between torch and the loader's workers; return the number of workers.

    On a CPU the forward needs the cores: few cores get no workers, more get one for every four, unless `num_workers`
    says otherwise. Busy workers beside as many torch threads as cores make a step 10 to 20 times slower.
    """
    cores = max(1, joblib.cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if num_workers is None:
        num_workers = cores // 4 if device.type == "cpu" else min(cores, 8)
    if device.type == "cpu":
        torch.set_num_threads(max(1, cores - num_workers))
        _keep_freed_memory()
    return num_workers


def _keep_freed_memory():
    """Let glibc keep the large blocks that every step frees and takes again, unless a variable MALLOC_* is set.

    Without it a step of mobilenetv2_100 at 128 px takes 1.4 times as long (docs/performance.md).
    """
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD of malloc.h
            mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD

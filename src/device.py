"""The device, the precision of a run on it, and how the cores are shared."""

import ctypes
import math
import os
import platform
import re
import socket
import statistics
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import joblib
import psutil
import torch

from src.config.registry import check_kwargs
from src.errors import UserError, first_line

_DEFAULTS = {"pin_memory": True, "prefetch_factor": 2, "cudnn_benchmark": True, "tf32": "convolutions"}
_switches = _DEFAULTS | {"is_gpu": True}  # of this process, by set_switches


def resolve_device(name):
    """Return the torch.device that `name` asks for; auto takes cuda, then mps, then cpu."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"  # each process of torchrun has its own
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the device meta has no numbers
    except (RuntimeError, AssertionError, ImportError) as error:
        found, advice, count = "not on this machine", "set device=auto or device=cpu", torch.cuda.device_count()
        if count and name in ("cuda", *(f"cuda:{number}" for number in range(count))):  # full, or not for this torch
            found, advice = f"cannot be used ({first_line(error)})", "see nvidia-smi, or set device=cpu"
        elif count and "LOCAL_RANK" in os.environ:
            advice = f"start torchrun with --nproc_per_node {count}, as many as GPUs"
        raise UserError(f"device={name}: {found}; {advice}") from None
    return device


def choose_interface():
    """Let gloo use the network that leads to torchrun's master, unless a variable names one.

    It would take the address of the host's own name, which on many systems is 127.0.0.1, where no other host finds it.
    """
    master, names = os.environ.get("MASTER_ADDR"), ("WORLD_SIZE", "LOCAL_WORLD_SIZE")
    if master is None or len({os.environ.get(name) for name in names}) == 1 or "GLOO_SOCKET_IFNAME" in os.environ:
        return
    for host in (master, "192.0.2.1"):  # its own name, or else where the default route leads to
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # sends nothing
            found = probe.getsockname()[0]
            names = [name for name, all_of in psutil.net_if_addrs().items() if found in [one.address for one in all_of]]
            if names and not found.startswith("127."):
                os.environ["GLOO_SOCKET_IFNAME"] = names[0]
                return


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

    The variables ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA may forbid them. oneDNN's answer is right on Arm; on x86 it
    is yes for any AVX-512, so that the processor and the variables are looked at here.
    """
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    largest = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    is_allowed = largest in ("", "ALL", "DEFAULT") or any(one in largest for one in ("BF16", "FP16", "AMX", "AVX10"))
    is_avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"  # knows ATEN_CPU_CAPABILITY
    return is_allowed and is_avx512 and torch.cpu._is_avx512_bf16_supported()


def name_cpu():
    """Return the processor's name; Linux's own words, as `platform` does not know them there."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()


def autocast(device, precision):
    """Return the context in which a forward runs in `precision`."""
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, dtypes[precision])


def set_switches(device, kwargs):
    """Set for this process what config.device_kwargs says; docs/gpu.md has the meaning of each, and of its default."""
    check_kwargs("device_kwargs", _DEFAULTS, kwargs, "a device", prefetch_factor=(1, 64), tf32=("none", "all"))
    _switches.update(_DEFAULTS | kwargs, is_gpu=device.type == "cuda")
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = _switches["cudnn_benchmark"]
        # by the old functions, which set both of torch's APIs: after the new ones reading the old ones raises
        torch.set_float32_matmul_precision("high" if _switches["tf32"] == "all" else "highest")
        torch.backends.cudnn.allow_tf32 = _switches["tf32"] != "none"


def loader_options(num_workers):
    """Return keywords of torch's DataLoader: workers stay between epochs, and each loads some batches ahead."""
    prefetch = {"prefetch_factor": _switches["prefetch_factor"]} if num_workers else {}
    is_pinned = _switches["pin_memory"] and _switches["is_gpu"] and torch.cuda.is_available()  # takes its context
    return {"num_workers": num_workers, "persistent_workers": num_workers > 0, "pin_memory": is_pinned, **prefetch}


def to_device(values, device):
    """Move a tensor or {name: tensor} to the device; to CUDA through pinned memory, so that nothing waits for it.

    To MPS, non_blocking can hand over memory that is already freed (pytorch issues 139550, 189690).
    """
    if isinstance(values, dict):
        return {name: to_device(value, device) for name, value in values.items()}
    if not _switches["pin_memory"] or device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.contiguous().pin_memory().to(device, non_blocking=True)


def list_gpus(name):
    """Return the names that CUDA_VISIBLE_DEVICES has for the GPUs that device=`name` leaves to choose from; else []."""
    count, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",")[:count] if visible else [str(number) for number in range(count)]
    return names if name in ("auto", "cuda") else []


def share_machine(config):
    """Divide this machine between processes; return (environment variables of each, words for all, kind of device).

    Each GPU is one's; on a CPU launcher=local gives each `threads` of the cores, and there is one process otherwise.
    """
    gpus, cores, kind = list_gpus(config.device), joblib.cpu_count(), config.device.partition(":")[0]
    if kind == "auto":
        kind = "cuda" if gpus else "mps" if torch.backends.mps.is_available() else "cpu"
    slots = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}]
    if kind == "cpu" and config.launcher == "local" and config.threads:
        slots *= max(1, cores // config.threads)
    if len(slots) == 1 or config.train.num_workers is not None:
        return slots, [], kind
    return slots, [f"train.num_workers={choose_num_workers(cores // len(slots), kind)}"], kind


def choose_num_workers(cores, kind):
    """Return how many workers load for a process of so many cores; on a CPU the forward needs most of these."""
    return cores // 4 if kind == "cpu" else min(cores, 8)


def share_cores(device, num_workers=None, threads=None):
    """Divide this process's cores between torch and the loader's workers; return (number of workers, ThreadGuard).

    Busy workers beside as many torch threads as cores make a step 10 to 20 times slower.
    num_workers: None: as many as choose_num_workers says.
    threads: of torch on a CPU; None: the cores that are left, and one while other programs use them.
    """
    num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = max(1, joblib.cpu_count() // num_processes)
    if num_workers is None:
        num_workers = choose_num_workers(cores, device.type)
    if device.type != "cpu":
        return num_workers, ThreadGuard()
    most = threads or max(1, cores - num_workers)
    torch.set_num_threads(most)
    _keep_freed_memory()
    may_change = most > 1 and threads is None and num_processes == 1
    return num_workers, ThreadGuard(most, OtherPrograms(num_workers).count) if may_change else ThreadGuard()


class ThreadGuard:
    """Gives torch one thread while that is faster, because other programs use the cores.

    OpenMP waits for its slowest thread: two threads on two cores beside a busy program may take 20 times as long as
    one. Where steps take several times their best, or other programs use the cores, one thread is tried for some steps
    and kept if it is faster; all are tried again later. An undisturbed run keeps its threads, and so its last bits.

    Args:
        most: torch's threads as they are now; 1: nothing is done.
        count_others: () -> cores in use by other programs since the last call; None with `most` 1.
    """

    _BLOCK, _SLOW, _MARGIN = 3, 3.0, 1.2  # steps that are compared; times the best; times as fast
    _BUSY, _PAUSE = 0.25, 20.0  # share of the cores; seconds to the next trial, doubled by each that fails
    _LOOK = 1.0  # seconds between two looks at the other programs

    def __init__(self, most=1, count_others=None, clock=time.perf_counter):
        self._most, self._count_others, self._clock = most, count_others, clock
        self._block, self._best, self._before, self._has_said, self._pause = [], math.inf, None, False, self._PAUSE
        self._last = self._next = clock()

    def after_step(self, seconds=None):
        """Called after each step with its seconds; None: those since the last call."""
        if self._most == 1:
            return
        now, is_one = self._clock(), torch.get_num_threads() == 1
        self._block.append(now - self._last if seconds is None else seconds)
        self._last = now
        is_hopeless = self._before is not None and self._block[-1] > self._SLOW * self._before
        if len(self._block) < self._BLOCK and not is_hopeless:
            return
        step, self._block = statistics.median(self._block), []
        if self._before is not None:
            self._end_trial(step, is_one, now)
        elif now >= self._next:
            self._best, self._next = min(self._best, math.inf if is_one else step), now + self._LOOK
            is_busy = step > self._SLOW * self._best or self._count_others() > self._BUSY * self._most
            if is_one or is_busy:
                self._before = step
                torch.set_num_threads(self._most if is_one else 1)

    def _end_trial(self, step, is_one, now):
        """Stay with the number of threads that was tried where its step is faster than the one before."""
        is_better = step * self._MARGIN < self._before
        if not is_better:
            torch.set_num_threads(self._most if is_one else 1)
        elif is_one and not self._has_said:
            self._has_said = True
            speed = f"{self._before / step:.1f} times as fast (threads=N keeps N)"
            print(f"other programs use the cores: 1 thread instead of {self._most} is {speed}", flush=True)
        self._pause = self._PAUSE if is_better else 2 * self._pause
        self._before, self._next = None, now + self._pause


class OtherPrograms:
    """Counts the cores that other programs use; each of the loader's `num_workers` processes counts as one of ours."""

    def __init__(self, num_workers=0):
        self._num_workers, self._process = num_workers, psutil.Process()
        self.count()

    def count(self):
        """Return their mean number since the last count; 0 where this process sees more cores than it may use."""
        percent = psutil.cpu_count() * psutil.cpu_percent() - self._process.cpu_percent()  # 100 is one core
        return percent / 100 - self._num_workers if psutil.cpu_count() == joblib.cpu_count() else 0.0


def _keep_freed_memory():
    """Let glibc keep the large blocks that every step frees and takes again, unless a variable MALLOC_* is set.

    Without it a step of mobilenetv2_100 at 128 px takes 1.4 times as long (docs/performance.md).
    """
    if sys.platform == "linux" and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD of malloc.h
            mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD

"""Runs code for CUDA on CPU kernels: which tensor would lie where, what CUDA would refuse, what would wait for it.

Every storage has a logical device, "cuda" once code has moved or made it there. Tensors answer with it, so that
libraries take their branches for CUDA (foreach and fused optimizers, GradScaler, pinned memory); the numbers are a
CPU's. Fake tensors would not do: their backward asks the driver for a context, and autocast to CUDA turns itself off.

What it does not see: kernels, CUDA's own list of autocast (a CPU's is used), graphs, streams, memory.
"""

import functools
import sys
import threading
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from src.config.settings import REPOSITORY

CUDA = torch.device("cuda", 0)
_SOURCES = str(REPOSITORY / "src")
_ATEN = torch.ops.aten
_TAGS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)  # their results are read by the host
_COPIES = (_ATEN.copy_.default, _ATEN._to_copy.default, _ATEN._foreach_copy_.default)
_INDEXING = (_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default, _ATEN._index_put_impl_.default)
_JOINING = (_ATEN.cat.default, _ATEN.stack.default)  # take no number of the CPU's, as other operations do
_DENSE = (torch.contiguous_format, torch.channels_last)
_FROM_HOST = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)  # copy from pageable memory


class Refused(RuntimeError):
    """What CUDA would not do."""


class Rehearsal:
    """What has happened inside `rehearse`."""

    def __init__(self):
        self.waits = []  # (operation, function of the project): what the host waits for
        self._labels = {}  # address of a storage: (weak reference, which keeps the address from reuse; device)
        self.copies = []  # to the CPU, which have been started
        self._thread = threading.local()  # the loader's thread pins memory meanwhile

    @property
    def ambient(self):
        """Where an operation without a tensor makes one."""
        return getattr(self._thread, "ambient", "cpu")

    @ambient.setter
    def ambient(self, name):
        self._thread.ambient = name

    def label(self, tensor, name):
        storage = tensor.untyped_storage()
        self._labels[storage._cdata] = StorageWeakRef(storage), name

    def label_of(self, tensor, default="cpu"):
        return self._labels.get(tensor.untyped_storage()._cdata, (None, default))[1]

    def is_cuda(self, tensor):
        return self.label_of(tensor) == "cuda"

    def has_cuda(self, values):
        return any(self.is_cuda(one) for one in tree_iter(values) if isinstance(one, torch.Tensor))

    def wait(self, operation):
        frame = sys._getframe(1)
        while frame is not None and not frame.f_code.co_filename.startswith(_SOURCES):
            frame = frame.f_back
        self.waits.append((str(operation), frame.f_code.co_name if frame else "?"))


class _Operations(TorchDispatchMode):
    """Sees each operation under autograd, of the backward pass, too."""

    def __init__(self, rehearsal):
        super().__init__()
        self.rehearsal = rehearsal

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, rehearsal = kwargs or {}, self.rehearsal
        tensors = [one for one in tree_iter((args, kwargs)) if isinstance(one, torch.Tensor)]
        on_cuda = [rehearsal.is_cuda(one) for one in tensors]
        if any(on_cuda):
            self._check(func, args, kwargs, tensors, on_cuda)
        result = func(*args, **kwargs)
        device = ("cuda" if any(on_cuda) else "cpu") if tensors else rehearsal.ambient
        for one in tree_iter(result):
            if isinstance(one, torch.Tensor) and rehearsal.label_of(one, None) is None:
                rehearsal.label(one, device)
        return result

    def _check(self, func, args, kwargs, tensors, on_cuda):
        rehearsal = self.rehearsal
        if func in _COPIES:
            if not all(on_cuda) and not kwargs.get("non_blocking"):
                rehearsal.wait(func)
            return
        if func in _INDEXING:
            masks = [one for one in args[1] if one is not None and one.dtype in (torch.bool, torch.uint8)]
            is_fill = func is not _ATEN.index.Tensor and args[2].numel() == 1
            indices = [one for one in args[1] if one is not None and not rehearsal.is_cuda(one)]
            if (masks and not is_fill) or indices:
                rehearsal.wait(func)
            tensors = [one for one in tensors if all(one is not other for other in indices)]
        elif any(tag in func.tags for tag in _TAGS):
            rehearsal.wait(func)
        others = [one for one in tensors if not rehearsal.is_cuda(one)]
        if any(one.dim() > 0 or func in _JOINING for one in others):
            found = ", ".join(f"{rehearsal.label_of(one)} {tuple(one.shape)}" for one in tensors)
            raise Refused(f"{func}: expects all tensors on the same device, found {found}")
        generator = kwargs.get("generator")
        if generator is not None and not getattr(generator, "is_cuda", False):
            raise Refused(f"{func}: expects a generator of cuda, found one of the CPU")


class _Calls(TorchFunctionMode):
    """Answers what Python code asks a tensor, and moves it."""

    def __init__(self, rehearsal):
        super().__init__()
        self.rehearsal = rehearsal
        tensor = torch.Tensor
        self._answers = {
            tensor.device.__get__: lambda one: CUDA,
            tensor.is_cuda.__get__: lambda one: True,
            tensor.is_cpu.__get__: lambda one: False,
            tensor.get_device: lambda one: 0,
            tensor.numpy: functools.partial(self._refuse, "numpy"),
            tensor.__array__: functools.partial(self._refuse, "numpy"),
            tensor.pin_memory: functools.partial(self._refuse, "pin_memory"),
        }
        self._moves = {tensor.to: self._to, tensor.cuda: self._cuda, tensor.cpu: self._cpu}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, rehearsal = dict(kwargs or {}), self.rehearsal
        if func in self._answers and rehearsal.is_cuda(args[0]):
            return self._answers[func](*args)
        if func in (torch.Tensor.numpy, torch.Tensor.tolist) and rehearsal.label_of(args[0]) == "on its way":
            raise Refused(f"{func.__name__}: reads a copy from cuda that nothing has waited for")
        if func in self._moves:
            return self._moves[func](*args, **kwargs)
        if func is torch.Tensor.backward:
            return self._backward(*args, **kwargs)
        if func in (torch.Tensor.pin_memory, torch.Tensor.is_pinned):
            is_pinned = rehearsal.label_of(args[0]) == "pinned"
            return is_pinned if func is torch.Tensor.is_pinned else self._place(args[0], "pinned", not is_pinned)
        has_cuda = rehearsal.has_cuda((args, kwargs))
        if has_cuda and func is torch.Tensor.tolist:
            rehearsal.wait("tolist")
        ambient = "cuda" if has_cuda else "cpu"
        if (device := kwargs.get("device")) is not None and not isinstance(device, int):
            ambient = torch.device(device).type
            kwargs["device"] = "cpu" if ambient == "cuda" else device
        is_from_host = func in _FROM_HOST and ambient == "cuda"
        if is_from_host and not (func is not torch.Tensor.new_tensor and rehearsal.has_cuda(args[0])):
            rehearsal.wait(func.__name__)
            return self._place(func(*args, **kwargs), "cuda", True)
        before, rehearsal.ambient = rehearsal.ambient, ambient
        try:
            result = func(*args, **kwargs)
        finally:
            rehearsal.ambient = before
        if isinstance(result, torch.Tensor) and rehearsal.label_of(result, None) is None:
            rehearsal.label(result, ambient)
        return result

    def _backward(self, loss, gradient=None, retain_graph=None, create_graph=False, inputs=None):
        """With the mode on, as a backward pass may run Python: a checkpoint's second forward."""
        before, self.rehearsal.ambient = self.rehearsal.ambient, "cuda" if self.rehearsal.is_cuda(loss) else "cpu"
        try:
            with self:
                torch.autograd.backward(loss, gradient, retain_graph, create_graph, inputs=inputs)
        finally:
            self.rehearsal.ambient = before

    def _refuse(self, name, one, *_):
        raise Refused(f"{name}: cannot be done to a tensor on cuda")

    def _place(self, tensor, label, is_new):
        """A copy with the label; autograd passes through."""
        if is_new:
            tensor = tensor.clone(memory_format=torch.preserve_format)
            self.rehearsal.label(tensor, label)
        return tensor

    def _to(self, one, *args, **kwargs):
        rehearsal, other = self.rehearsal, args[0] if args else kwargs.pop("other", None)
        if isinstance(other, torch.Tensor):
            args = (CUDA if rehearsal.is_cuda(other) else torch.device("cpu"), other.dtype, *args[1:])
        copy = kwargs.pop("copy", False)
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        how = {"dtype": dtype or one.dtype, "memory_format": memory_format or torch.preserve_format}
        is_cuda = rehearsal.is_cuda(one)
        if device is None or (device.type == "cuda") == is_cuda:
            return one.to(copy=copy, **how)
        is_dense = any(one.is_contiguous(memory_format=form) for form in _DENSE if one.dim() == 4 or form == _DENSE[0])
        is_pinned = (
            rehearsal.label_of(one) == "pinned" and is_dense
        )  # else torch makes it dense first, in pageable memory
        if not non_blocking or not (is_pinned or is_cuda):  # cuda to CPU allocates pinned memory
            rehearsal.wait(f"to {device.type}")
        moved = one.to(copy=True, **how)
        rehearsal.label(moved, "cuda" if device.type == "cuda" else "on its way" if non_blocking else "cpu")
        if non_blocking and is_cuda:
            rehearsal.copies.append(moved)
        return moved

    def _cuda(self, one, device=None, non_blocking=False, memory_format=torch.preserve_format):
        return self._to(one, CUDA, non_blocking=non_blocking, memory_format=memory_format)

    def _cpu(self, one, memory_format=torch.preserve_format):
        return self._to(one, torch.device("cpu"), memory_format=memory_format)


def _group_tensors(rehearsal, group, lists, with_indices=False):
    """By the device of the first list, as foreach functions and GradScaler ask for it in C++."""
    found = group(lists, with_indices)
    return {(CUDA if rehearsal.is_cuda(one[0][0][0]) else key[0], key[1]): one for key, one in found.items()}


class _Generator(torch._C.Generator):
    """A generator whose device is remembered."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        made.is_cuda = torch.device(device).type == "cuda"
        return made


class _Autocast(torch.amp.autocast_mode.autocast):
    """CPU's autocast in place of CUDA's; dtypes are the same, the lists of operations nearly."""

    def __init__(self, device_type, *args, **kwargs):
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


class _Stream:
    """Its events end the copies to the CPU that were started before; what comes later is not waited for."""

    def __init__(self, rehearsal):
        self._rehearsal = rehearsal

    def record_event(self):
        self._copies = list(self._rehearsal.copies)
        return self

    def synchronize(self):
        for copy in self._copies:
            self._rehearsal.label(copy, "pinned")
            self._rehearsal.copies = [one for one in self._rehearsal.copies if one is not copy]


def _pin_in_thread(rehearsal, pin):
    """The loader's thread, which has modes of its own."""

    def pin_(*arguments):
        with _Operations(rehearsal), _Calls(rehearsal):
            pin(*arguments)

    return pin_


@contextmanager
def rehearse(num_devices=1):
    """Run what is inside as if this machine had a GPU; yield the Rehearsal. Refused: what CUDA would not do.

    num_devices: that are counted, of which the first alone is rehearsed.
    """
    rehearsal = Rehearsal()
    with ExitStack() as stack:
        for name, value in {
            "torch.cuda.is_available": lambda: True,
            "torch.cuda.device_count": lambda: num_devices,
            "torch.cuda.current_device": lambda: 0,
            "torch.cuda.set_device": lambda device: None,
            "torch.cuda.get_device_name": lambda *_: "rehearsal",
            "torch.cuda.get_rng_state": lambda *_: torch.get_rng_state(),
            "torch.cuda.set_rng_state": lambda *_: None,
            "torch.cuda.is_bf16_supported": lambda *_, **__: True,
            "torch.cuda.get_device_properties": lambda *_: SimpleNamespace(L2_cache_size=2**22),
            "torch.cuda.synchronize": lambda *_: rehearsal.wait("synchronize"),
            "torch.cuda.current_stream": lambda *_: _Stream(rehearsal),
            "torch.accelerator.is_available": lambda *_, **__: True,
            "torch.accelerator.current_device_index": lambda: 0,
            "torch.accelerator.set_device_index": lambda index: None,
            "torch.utils.data._utils.pin_memory._pin_memory_loop": _pin_in_thread(
                rehearsal, torch.utils.data._utils.pin_memory._pin_memory_loop
            ),
            "torch.accelerator.current_accelerator": lambda *_, **__: torch.device("cuda"),
            "torch._C._group_tensors_by_device_and_dtype": functools.partial(
                _group_tensors, rehearsal, torch._C._group_tensors_by_device_and_dtype
            ),
            "torch.Generator": _Generator,
            "torch.autocast": _Autocast,
            "torch.amp.autocast": _Autocast,
        }.items():
            stack.enter_context(patch(name, value))
        for name in (
            "_accelerator_graph_capture_health_check",
            "_cuda_graph_capture_health_check",
        ):  # of torch 2.14, 2.9
            if hasattr(torch.optim.Optimizer, name):
                stack.enter_context(patch.object(torch.optim.Optimizer, name, lambda self: None))
        stack.enter_context(_Operations(rehearsal))
        stack.enter_context(_Calls(rehearsal))
        yield rehearsal

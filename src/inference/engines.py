"""infer.engine: on a CPU, ONNX Runtime runs the networks where it agrees with torch."""

import io
import timeit
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import nn

from src.errors import UserError, first_line

_TOLERANCE = 1e-3  # of a probability, or of a value of regression, above 1 relative to it
_MARGIN = 1.2  # times as fast as torch, or auto stays with it


def accelerate(networks, engine, to_probs):
    """Return the networks as ONNX Runtime runs them, in fp32; auto: where that is faster on the first batch."""
    device = next(networks[0].parameters()).device.type
    if engine == "torch" or (engine == "auto" and device != "cpu"):
        return networks
    if device != "cpu":
        raise UserError(f"infer.engine={engine}: runs on a CPU, device is {device}; leave it out or set device=cpu")
    if lacks := [name for name in ("onnx", "onnxruntime") if not find_spec(name)]:
        lack = f"infer.engine={engine}: not installed: {', '.join(lacks)}"
        if engine != "auto":
            raise UserError(f"{lack}; pip install {' '.join(lacks)}")
        print(f"{lack}; torch predicts", flush=True)
        return networks
    choice = _Choice(to_probs, is_open=engine == "auto")
    return [_OnnxNetwork(network, choice) for network in networks]


@dataclass
class _Choice:
    """What holds for all networks of a run."""

    to_probs: Callable  # logits -> probabilities, or values of regression
    is_open: bool  # the first network's first batch is to be timed
    is_taken: bool = True  # by ONNX Runtime; else by torch

    def give_up(self, reason):
        print(f"infer.engine=onnxruntime: {reason}; torch predicts", flush=True)
        self.is_taken = False


class _OnnxNetwork(nn.Module):
    """A Network whose forward ONNX Runtime runs, as long as it says what torch says."""

    def __init__(self, network, choice):
        super().__init__()
        self.network, self.normalize, self.pixel_stats = network, network.normalize, network.pixel_stats
        self._choice, self._run, self._shapes = choice, None, set()

    def forward(self, **inputs):
        """Map normalised inputs to logits as the network does; the first batch of each shape is checked."""
        choice, shapes = self._choice, tuple(value.shape for value in inputs.values())
        if choice.is_taken and shapes not in self._shapes:
            try:
                self._run = self._run or open_session(export(self.network, inputs))
                self._check(inputs)
            except Exception as error:  # of two libraries, for whatever one of them lacks
                choice.give_up(f"cannot take the network ({first_line(error)})")
            self._shapes.add(shapes)
        return self._run(inputs) if choice.is_taken else self.network(**inputs)

    def _check(self, inputs):
        """Compare the probabilities of up to 8 rows of a batch with those of torch in fp32; time it where asked."""
        choice, count = self._choice, len(next(iter(inputs.values())))
        rows = torch.linspace(0, count - 1, min(count, 8)).long()
        with torch.autocast("cpu", enabled=False):
            expected = choice.to_probs(self.network(**{name: value[rows] for name, value in inputs.items()}))
        found = choice.to_probs(self._run(inputs))[rows]
        difference = ((found - expected).abs() / expected.abs().clamp(min=1)).max().item()
        if not difference <= _TOLERANCE:  # nan is not
            choice.give_up(f"differs from torch by {difference:.2g}, more than {_TOLERANCE:g}")
        elif choice.is_open:
            ratio = _time(lambda: self.network(**inputs)) / _time(lambda: self._run(inputs))
            choice.is_open = False
            if ratio < _MARGIN:
                choice.give_up(f"is {ratio:.2f} times as fast as torch")
            else:
                print(f"infer.engine=onnxruntime: timed, {ratio:.1f} times as fast as torch", flush=True)


class _Positional(nn.Module):
    """A network whose inputs come in order: the export takes no names, and leaves the network in this one's mode."""

    def __init__(self, network, names):
        super().__init__()
        self.network, self.names = network, names

    def forward(self, *values):
        return self.network(**dict(zip(self.names, values, strict=True)))


def export(network, inputs):
    """Return a network that takes `inputs` by name as an ONNX file, of any number and size of images."""
    names, file = list(inputs), io.BytesIO()
    free = {name: {0: "rows"} | ({2: "height", 3: "width"} if one.ndim == 4 else {}) for name, one in inputs.items()}
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        warnings.simplefilter("ignore")  # of what the trace takes as constant: `_check` sees whether that is right
        values, ordered = tuple(value[:2].clone() for value in inputs.values()), _Positional(network, names).eval()
        torch.onnx.export(ordered, values, file, input_names=names, dynamic_axes=free, dynamo=False)
    return file.getvalue()


def open_session(onnx):
    """Return a function {name: tensor} -> logits of an ONNX file's bytes, on as many threads as torch has."""
    import onnxruntime  # here, as it need not be installed

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(
        session.run(None, {name: value.contiguous().numpy() for name, value in inputs.items()})[0]
    )


def _time(run):
    """Return the seconds of the fastest of three calls, after one that warms up."""
    return min(timeit.repeat(run, number=1, repeat=4)[1:])

"""infer.engine: on a CPU, networks are run by ONNX Runtime or OpenVINO where these agree with torch."""

import io
import time
import warnings
from importlib.util import find_spec

import torch
from torch import nn

from src.errors import UserError, first_line

_TOLERANCE = 1e-3  # of a probability, or of a value of regression, above 1 relative to it
_MARGIN = 1.2  # times as fast as torch, or auto stays with it


def _open_onnxruntime(onnx):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    return lambda arrays: session.run(None, arrays)[0]


def _open_openvino(onnx):
    import openvino

    hints = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    hints["INFERENCE_PRECISION_HINT"] = "f32"  # its bf16 is up to 0.14 off where torch's is 0.01 (mobilenetv2_100)
    compiled = openvino.Core().compile_model(openvino.Core().read_model(onnx), "CPU", hints)
    return lambda arrays: compiled(arrays)[0]


# name: ONNX file as bytes -> function from {name: array} to logits
ENGINES = {"onnxruntime": _open_onnxruntime, "openvino": _open_openvino}


def accelerate(networks, engine, to_probs):
    """Return the networks as an engine runs them, in fp32; auto: the fastest on the first batch, or torch."""
    device = next(networks[0].parameters()).device.type
    if engine == "torch" or (engine == "auto" and device != "cpu"):
        return networks
    if device != "cpu":
        raise UserError(f"infer.engine={engine}: runs on a CPU, device is {device}; leave it out or set device=cpu")
    names = [name for name in ENGINES if engine in (name, "auto") and find_spec(name)]
    lacks = [*(() if find_spec("onnx") else ("onnx",)), *(() if names else (engine.replace("auto", "openvino"),))]
    if lacks:
        raise UserError(f"infer.engine={engine}: not installed: {', '.join(lacks)}; pip install {' '.join(lacks)}")
    engine = _Engine(names, to_probs, is_auto=engine == "auto")
    return [_EngineNetwork(network, engine) for network in networks]


class _EngineNetwork(nn.Module):
    """A Network whose forward another engine runs, as long as it says what torch says."""

    def __init__(self, network, engine):
        super().__init__()
        self.network, self.normalize, self.pixel_stats = network, network.normalize, network.pixel_stats
        self._engine, self._run, self._shapes = engine, None, set()

    def forward(self, **inputs):
        """Map normalised inputs to logits as the network does; the first batch of each shape is checked."""
        engine, shapes = self._engine, tuple(value.shape for value in inputs.values())
        if engine.names and shapes not in self._shapes:
            self._run = self._run or engine.open(self.network, inputs)
            engine.check(self.network, self._run, inputs)
            self._shapes.add(shapes)
        return self._run(inputs) if engine.names else self.network(**inputs)


class _Engine:
    """What runs all networks: one of `names` once a network is opened; none of them is torch."""

    def __init__(self, names, to_probs, is_auto):
        self.names, self._to_probs, self._is_auto = names, to_probs, is_auto

    def open(self, network, inputs):
        """Return a function {name: tensor} -> logits, or None where torch takes the network instead."""
        try:
            onnx = export(network, inputs)
            runs = {name: on_tensors(ENGINES[name](onnx)) for name in self.names}
            seconds = {name: _time(run, inputs) for name, run in runs.items()} if self._is_auto else {}
        except Exception as error:  # of three libraries, for whatever one of them lacks
            return self._give_up(f"cannot take the network ({first_line(error)})")
        if self._is_auto:
            best, torch_seconds = min(seconds, key=seconds.get), _time(lambda one: network(**one), inputs)
            ratio, self.names, self._is_auto = torch_seconds / seconds[best], [best], False
            if ratio < _MARGIN:
                return self._give_up(f"is {ratio:.2f} times as fast as torch")
            print(f"infer.engine={best}: timed, {ratio:.1f} times as fast as torch", flush=True)
        return runs[self.names[0]]

    def check(self, network, run, inputs):
        """Give the engine up where its probabilities of some of a batch's rows are not those of torch in fp32."""
        if run is None:
            return
        count = len(next(iter(inputs.values())))
        rows = torch.linspace(0, count - 1, min(count, 8)).long()
        some = {name: value[rows] for name, value in inputs.items()}
        with torch.autocast("cpu", enabled=False):
            expected = self._to_probs(network(**some))
        try:
            found = self._to_probs(run(inputs))[rows]
            difference = ((found - expected).abs() / expected.abs().clamp(min=1)).max().item()
        except Exception as error:
            return self._give_up(f"cannot take a batch ({first_line(error)})")
        if not difference <= _TOLERANCE:  # nan is not
            self._give_up(f"differs from torch by {difference:.2g}, more than {_TOLERANCE:g}")

    def _give_up(self, reason):
        print(f"infer.engine={self.names[0]}: {reason}; torch predicts", flush=True)
        self.names = []


class _Positional(nn.Module):
    """A network whose inputs come in order: the export takes no names."""

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
        warnings.simplefilter("ignore")  # of what the trace takes as constant: `check` sees whether that is right
        values = tuple(value[:2].clone() for value in inputs.values())
        torch.onnx.export(_Positional(network, names), values, file, input_names=names, dynamic_axes=free, dynamo=False)
    return file.getvalue()


def on_tensors(run):
    """Return a function of tensors for one of arrays."""
    return lambda inputs: torch.from_numpy(run({name: value.contiguous().numpy() for name, value in inputs.items()}))


def _time(run, inputs, repeats=3):
    """Return the seconds of the fastest of some calls, after one that warms up."""
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        run(inputs)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])

"""Forward passes on a CPU by torch in fp32 and bf16, ONNX Runtime and OpenVINO, in turns in one process."""

import sys
import time

import timm
import torch
from torch import nn

from benchmarks.report import read_words, save_report, table_text
from src.errors import one_line_errors
from src.inference.engines import export, open_session

USAGE = """usage: python -m benchmarks.engines [key=value ...]

  cases=mobilenetv2_100:128,resnet18:224   backbone and image size of each
  threads=1  batch_size=16  repeats=4
  output=outputs/benchmarks/engines.json

Random weights; images/s of the fastest pass, and how many times as fast as torch in fp32.
"""
CASES = "mobilenetv2_100:128,mobilenetv2_100:224,resnet18:128,resnet18:224,convnext_nano:224,vit_tiny_patch16_224:224"
DEFAULTS = {
    "cases": CASES, "threads": "1", "batch_size": "16", "repeats": "4", "output": "outputs/benchmarks/engines.json",
}  # fmt: skip


class Named(nn.Module):
    """A backbone whose input has a name, as the project's network."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, image):
        return self.backbone(image)


def open_openvino(onnx):
    """Return a function {name: tensor} -> logits of an ONNX file's bytes."""
    import openvino

    hints = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    hints["INFERENCE_PRECISION_HINT"] = "f32"  # its bf16 is up to 0.14 off where torch's is 0.01 (mobilenetv2_100)
    compiled = openvino.Core().compile_model(openvino.Core().read_model(onnx), "CPU", hints)
    return lambda inputs: compiled({name: value.contiguous().numpy() for name, value in inputs.items()})[0]


@torch.inference_mode()
def time_case(name, size, batch_size, repeats):
    """Return {engine: [seconds a batch]}, after a pass of each that warms up."""
    network = Named(timm.create_model(name, num_classes=2).eval().to(memory_format=torch.channels_last))
    images = torch.rand(batch_size, 3, size, size).contiguous(memory_format=torch.channels_last)
    onnx = export(network, {"image": images})
    runs = {"onnxruntime": open_session(onnx), "openvino": open_openvino(onnx)}
    seconds = {key: [] for key in ("fp32", "bf16", *runs)}
    for repeat in range(1 + repeats):
        for key, found in seconds.items():
            start = time.perf_counter()
            if key in runs:
                runs[key]({"image": images})
            else:
                with torch.autocast("cpu", torch.bfloat16, enabled=key == "bf16"):
                    network(image=images)
            if repeat:
                found.append(time.perf_counter() - start)
    return seconds


def main(words):
    """Run the command line `words`."""
    if "--help" in words:
        print(USAGE)
        return
    settings = read_words(words, DEFAULTS, "benchmarks.engines", ("threads", "batch_size", "repeats"))
    torch.set_num_threads(settings["threads"])
    rows, shown = [], [["case", "fp32", "bf16", "onnxruntime", "openvino"]]
    for case in settings["cases"].split(","):
        name, _, size = case.partition(":")
        seconds = time_case(name, int(size), settings["batch_size"], settings["repeats"])
        rows.append({"case": case, "seconds": seconds})
        best = [min(found) for found in seconds.values()]
        shown.append([case, *(f"{settings['batch_size'] / one:.0f} ({best[0] / one:.2f})" for one in best)])
    save_report(settings["output"], rows, ["python", "-m", "benchmarks.engines", *words], settings=settings)
    print(table_text(shown))


if __name__ == "__main__":
    with one_line_errors(sys.argv[1:]):
        main(sys.argv[1:])

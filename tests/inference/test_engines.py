"""Networks run by ONNX Runtime against torch: equal, checked at run time, or torch's own."""

import pytest
import torch
from torch import nn

from src.errors import UserError
from src.inference import engines
from src.inference.engines import accelerate

for library in ("onnx", "onnxruntime"):
    pytest.importorskip(library)


class Small(nn.Module):
    """A convolution and a second input, of images of any size."""

    pixel_stats = (0.0, 1.0)

    def __init__(self):
        super().__init__()
        self.conv, self.layer, self.dropout = nn.Conv2d(3, 4, 3), nn.Linear(6, 2), nn.Dropout(0.5)

    def normalize(self, inputs):
        return inputs

    def forward(self, features=None, **inputs):
        features = self.conv(inputs["image"]).relu().mean((2, 3))
        return self.layer(self.dropout(torch.cat([features, inputs["metadata"]], dim=1)))


class Baked(Small):
    """One whose trace holds a number that depends on the image."""

    def forward(self, features=None, **inputs):
        return super().forward(**inputs) + 5 * float(inputs["image"].mean() > 0)


class Odd(Small):
    """One that no ONNX file can hold."""

    def forward(self, features=None, **inputs):
        return super().forward(**inputs) + torch.linalg.eigvals(inputs["image"][:, 0, :2, :2]).real


def make_inputs(count, size, sign=1):
    image = sign * torch.rand(count, 3, size, size).contiguous(memory_format=torch.channels_last)
    return {"image": image, "metadata": torch.rand(count, 2)}


def test_it_says_what_torch_says_of_any_number_and_size_of_images(capsys):
    torch.set_num_threads(1)
    networks = [Small().eval(), Small().eval()]
    run = accelerate(networks, "onnxruntime", torch.sigmoid)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for count, size in ((5, 8), (5, 12), (1, 8)):
            inputs = make_inputs(count, size)
            for network, one in zip(networks, run, strict=True):
                with torch.autocast("cpu", enabled=False):
                    expected = network(**inputs)
                torch.testing.assert_close(one(**inputs), expected, atol=1e-5, rtol=1e-5)
    assert capsys.readouterr().out == ""


def test_where_it_differs_or_fails_torch_predicts(capsys):
    network = Baked().eval()
    [run] = accelerate([network], "onnxruntime", torch.sigmoid)
    with torch.inference_mode():
        for inputs in (make_inputs(4, 8), make_inputs(4, 9, sign=-1)):
            torch.testing.assert_close(run(**inputs), network(**inputs), atol=1e-5, rtol=1e-5)
        line = capsys.readouterr().out
        assert line.startswith("infer.engine=onnxruntime: differs from torch by 0.")
        assert line.endswith(", more than 0.001; torch predicts\n")
        odd = Odd().eval()
        inputs = make_inputs(4, 8)
        assert torch.equal(accelerate([odd], "onnxruntime", torch.sigmoid)[0](**inputs), odd(**inputs))
    assert "infer.engine=onnxruntime: cannot take the network (" in capsys.readouterr().out


def test_auto_takes_what_is_faster(monkeypatch, capsys):
    network, inputs = Small().eval(), make_inputs(4, 8)
    fast, slow = "timed, 1.7 times as fast as torch", "is 1.10 times as fast as torch; torch predicts"
    for torch_seconds, said in ((1.7, f"onnxruntime: {fast}"), (1.1, f"onnxruntime: {slow}")):
        given = iter([torch_seconds, 1.0])
        monkeypatch.setattr(engines, "_time", lambda *_: next(given))  # noqa: B023
        with torch.inference_mode():
            found = accelerate([network], "auto", torch.sigmoid)[0](**inputs)
            torch.testing.assert_close(found, network(**inputs), atol=1e-5, rtol=1e-5)
        assert capsys.readouterr().out == f"infer.engine={said}\n"


def test_what_lacks_and_a_gpu_are_one_line(monkeypatch, capsys):
    with pytest.raises(UserError, match=r"^infer\.engine=onnxruntime: runs on a CPU, device is meta; leave it out"):
        accelerate([Small().to("meta")], "onnxruntime", torch.sigmoid)
    networks = [Small().to("meta")]
    assert accelerate(networks, "auto", torch.sigmoid) is networks
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        accelerate([Small()], "onnxruntime", torch.sigmoid)
    line = "infer.engine=onnxruntime: not installed: onnx, onnxruntime; pip install onnx onnxruntime"
    assert str(caught.value) == line
    networks = [Small()]
    assert accelerate(networks, "auto", torch.sigmoid) is networks
    assert capsys.readouterr().out == "infer.engine=auto: not installed: onnx, onnxruntime; torch predicts\n"

"""Pretrained weights: where they are found, that all of them are loaded, and refusals word by word."""

import os
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tests.model.building import build, refusal

SHARED = Path(os.environ.get("SHARED", "../shared")) / "weights"
needs_shared = pytest.mark.skipif(
    not (SHARED / "mobilenetv2_100.safetensors").is_file(), reason="real weights are not at hand"
)


@pytest.fixture(scope="module")
def resnet_weights(tmp_path_factory):
    """timm's state of a resnet10t of 1000 classes with weights unlike any initial ones, and a folder that holds it."""
    torch.manual_seed(1)
    model = timm.create_model("resnet10t", num_classes=1000)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand_like(tensor))
    folder = tmp_path_factory.mktemp("weights")
    save_file(model.state_dict(), folder / "resnet10t.safetensors")
    return model.eval(), folder


@pytest.mark.parametrize("spelling", ["file", "folder", "tag", "variable"])
def test_weights_are_found(spelling, resnet_weights, monkeypatch):
    model, folder = resnet_weights
    words = {"weights": str(folder)}
    if spelling == "file":
        words = {"weights": str(folder / "resnet10t.safetensors")}
    elif spelling == "tag":
        words["backbone"] = "resnet10t.c3_in1k"
    elif spelling == "variable":
        words = {}
        monkeypatch.setenv("WEIGHTS", str(folder))
    network = build(pretrained=True, **words)
    for name, tensor in network.backbone.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    assert network.freeze_batchnorm


def test_the_full_name_goes_before_the_name_without_tag(resnet_weights, tmp_path):
    model, folder = resnet_weights
    (tmp_path / "resnet10t.safetensors").write_bytes((folder / "resnet10t.safetensors").read_bytes())
    other = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    save_file(other, tmp_path / "resnet10t.c3_in1k.safetensors")
    network = build(backbone="resnet10t.c3_in1k", pretrained=True, weights=str(tmp_path))
    assert torch.equal(network.backbone.bn1.bias, model.bn1.bias + 1)


def test_grey_weights_are_the_sum_over_colours(resnet_weights):
    model, folder = resnet_weights
    network = build(pretrained=True, weights=str(folder), channels=1)
    expected = model.conv1[0].weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(network.backbone.conv1[0].weight, expected)


def test_plain_pickles_load_and_others_never_run(resnet_weights, tmp_path):
    model, _ = resnet_weights
    torch.save({"state_dict": model.state_dict()}, tmp_path / "resnet10t.pth")
    network = build(pretrained=True, weights=str(tmp_path))
    assert torch.equal(network.backbone.bn1.bias, model.bn1.bias)

    class Harmful:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"weights": Harmful()}, tmp_path / "harmful.pth")
    message = refusal(pretrained=True, weights=str(tmp_path / "harmful.pth"))
    assert message.startswith(f"{tmp_path}/harmful.pth: ")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"layer3.0.conv1.weight": torch.zeros(3, 4, 5, 6)},
            "layer3.0.conv1.weight is (3, 4, 5, 6), not (256, 128, 3, 3)",
        ),
        ({"layer3.0.conv1.weight": None}, "layer3.0.conv1.weight (256, 128, 3, 3) is missing"),
        ({"layer9.weight": torch.zeros(3)}, "the backbone has no layer9.weight (3,)"),
    ],
)
def test_weights_that_do_not_fit(changes, reason, resnet_weights, tmp_path, capfd):
    state = resnet_weights[0].state_dict() | changes
    save_file({name: one for name, one in state.items() if one is not None}, tmp_path / "resnet10t.safetensors")
    assert refusal(pretrained=True, weights=str(tmp_path)) == (
        f"{tmp_path}/resnet10t.safetensors: these weights do not fit resnet10t ({reason}); set model.backbone to theirs"
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("classifier", [7, None])
def test_a_classifier_of_other_classes_or_none_is_dropped(classifier, resnet_weights, tmp_path, capfd):
    state = {name: one for name, one in resnet_weights[0].state_dict().items() if not name.startswith("fc.")}
    if classifier:
        state |= {"fc.weight": torch.zeros(classifier, 512), "fc.bias": torch.zeros(classifier)}
    save_file(state, tmp_path / "resnet10t.safetensors")
    assert build(pretrained=True, weights=str(tmp_path))
    assert capfd.readouterr() == ("", "")


def test_no_file_is_touched_for_inference():
    assert build(pretrained=True, weights="/nowhere", network={"load_pretrained": False})


def test_weights_that_are_not_there(tmp_path):
    assert refusal(pretrained=True, weights="/nowhere") == (
        "model.weights=/nowhere: no such file or folder; give a file, or a folder of <backbone>.safetensors"
    )
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    message = refusal(pretrained=True, weights=str(tmp_path / "junk.safetensors"))
    assert message.startswith(f"{tmp_path}/junk.safetensors: cannot be read as weights")


def test_an_unreachable_hub_is_one_quick_line(monkeypatch, capfd, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("src.model.weights._is_hub_reachable", lambda: False)
    began = time.perf_counter()
    message = refusal(backbone="test_resnet.r160_in1k", pretrained=True, weights=str(tmp_path))
    assert time.perf_counter() - began < 5
    assert message.startswith(
        "model.backbone=test_resnet.r160_in1k: its pretrained weights could not be downloaded ("
    )
    assert message.endswith("give a file with model.weights=PATH, or train from scratch with model.pretrained=false")
    assert capfd.readouterr() == ("", "")


def test_a_backbone_without_pretrained_weights():
    assert refusal(backbone="test_mambaout", pretrained=True) == (
        "model.backbone=test_mambaout: timm has no pretrained weights for it; "
        "give model.weights=FILE or set model.pretrained=false"
    )


@needs_shared
@pytest.mark.parametrize(("channels", "kwargs"), [(3, {}), (3, {"pad_type": "same"}), (1, {})])
def test_real_weights_load_whole(channels, kwargs):
    path = SHARED / "mobilenetv2_100.safetensors"
    network = build("mobilenetv2_100", pretrained=True, weights=str(path), channels=channels, kwargs=kwargs)
    given, own = load_file(path), network.backbone.state_dict()
    assert set(given) - set(own) == {"classifier.weight", "classifier.bias"}
    for name in own:
        if channels == 3 or name != "conv_stem.weight":
            assert torch.equal(own[name], given[name]), name

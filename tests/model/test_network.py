"""The network against timm's own models, pooling and normalisation against formulas, refusals word by word."""

import os
import re
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers import DropPath
from torch import nn

from src.config.settings import Model, settings
from src.errors import UserError
from src.model.head import ACTIVATIONS, GeM, Head
from src.model.network import build_network

SHARED = Path(os.environ.get("SHARED", "../shared")) / "weights"
needs_shared = pytest.mark.skipif(
    not (SHARED / "mobilenetv2_100.safetensors").is_file(), reason="real weights are not at hand"
)
FAMILIES = ["resnet10t", "mobilenetv2_100", "mobilenetv3_small_050", "convnext_atto", "test_efficientnet", "test_vit"]


@pytest.fixture(autouse=True)
def _no_weights_variable(monkeypatch):
    monkeypatch.delenv("WEIGHTS", raising=False)


def build(backbone="resnet10t", num_targets=2, channels=3, image_size=(64, 64), network=None, **given):
    torch.manual_seed(0)
    given = Model(backbone=backbone, **{"pretrained": False, **given})
    return build_network(given, num_targets, channels, image_size, **(network or {}))


def refusal(**given):
    with pytest.raises(UserError) as error:
        build(**given)
    assert "\n" not in str(error.value)
    return str(error.value)


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


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_timms_model(name):
    torch.manual_seed(1)
    model = timm.create_model(name, num_classes=5, **({"img_size": 64} if "vit" in name else {})).eval()
    network = build(name, num_targets=5).eval()
    network.backbone.load_state_dict(model.state_dict(), strict=False)
    classifier = model.get_classifier()
    network.head.last.load_state_dict(classifier.state_dict())
    images = torch.randn(2, 3, 64, 64).double()  # in which the order of sums does not matter
    torch.testing.assert_close(network.double()(images), model.double()(images))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_normalize_by_the_backbones_statistics(channels):
    network = build(channels=channels)
    pixels = torch.randint(0, 256, (2, 8, 6, channels), dtype=torch.uint8)
    mean, std = torch.tensor(network.backbone.pretrained_cfg["mean"]), torch.tensor([0.229, 0.224, 0.225])
    if channels == 1:
        mean, std = mean.mean(), std.mean()
    elif channels == 5:
        mean, std = mean[[0, 1, 2, 0, 1]], std[[0, 1, 2, 0, 1]]
    normalized = network.normalize(pixels)
    expected = ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(normalized, expected, atol=1e-5, rtol=1e-5)
    assert normalized.dtype == torch.float32
    assert normalized.is_contiguous(memory_format=torch.channels_last)


def test_normalize_by_given_statistics_or_none():
    pixels = torch.rand(2, 4, 4, 3) * 7
    kept = pixels.clone()
    network = build(network={"normalize": "dataset", "pixel_stats": ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])})
    expected = (pixels - torch.tensor([1.0, 2.0, 3.0])) / torch.tensor([4.0, 5.0, 6.0])
    torch.testing.assert_close(network.normalize(pixels), expected.permute(0, 3, 1, 2))
    assert torch.equal(pixels, kept)  # several networks read one batch
    plain = build(network={"normalize": "none"})
    torch.testing.assert_close(plain.normalize(pixels), (pixels / 255).permute(0, 3, 1, 2))


def test_statistics_travel_with_the_weights():
    trained = build(network={"normalize": "dataset", "pixel_stats": ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])})
    loaded = build(network={"load_pretrained": False})
    loaded.load_state_dict(trained.state_dict())
    assert loaded.pixel_mean.flatten().tolist() == [1.0, 2.0, 3.0]
    assert loaded.pixel_std.flatten().tolist() == [4.0, 5.0, 6.0]


def test_normalize_refuses_other_channels():
    with pytest.raises(AssertionError):
        build(channels=3).normalize(torch.zeros(1, 4, 4, 1, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["resnet10t", "test_efficientnet", "regnetx_002"])
def test_pools_of_feature_maps(name):
    image = torch.randn(2, 3, 64, 64)
    vectors = {}
    for pool in ("auto", "avg", "max", "avgmax"):
        network = build(name, pool=pool).eval()
        vectors[pool] = network.backbone(image)
        features = network.backbone.forward_features(image)
    torch.testing.assert_close(vectors["auto"], vectors["avg"])
    torch.testing.assert_close(vectors["avg"], features.mean(dim=(2, 3)))
    torch.testing.assert_close(vectors["max"], features.amax(dim=(2, 3)))
    torch.testing.assert_close(vectors["avgmax"], (vectors["avg"] + vectors["max"]) / 2)


def test_pools_of_tokens():
    image = torch.randn(2, 3, 64, 64)
    network = build("test_vit", pool="avg").eval()
    tokens = network.backbone.forward_features(image)
    torch.testing.assert_close(network.backbone(image), tokens[:, 1:].mean(dim=1))
    network = build("test_vit", pool="max").eval()
    torch.testing.assert_close(network.backbone(image), tokens[:, 1:].amax(dim=1))


def test_a_vits_pretrained_norm_survives_another_pool(tmp_path):
    model = timm.create_model("test_vit", num_classes=10)
    nn.init.normal_(model.norm.weight)
    save_file(model.state_dict(), tmp_path / "test_vit.safetensors")
    network = build("test_vit", pretrained=True, weights=str(tmp_path), pool="avg", image_size=(160, 160))
    assert torch.equal(network.backbone.norm.weight, model.norm.weight)


@pytest.mark.parametrize(
    "name",
    [
        "resnet10t",
        "mobilenetv2_100",
        "mobilenetv3_small_050",
        "convnext_atto",
        "test_maxvit",
        "swin_s3_tiny_224",
        "tresnet_m",
    ],
)
def test_gem_with_a_power_of_one_is_the_average(name):
    """Of positive features; in front of a norm or a convolution, in NHWC (Swin), and in timm's fast pool (TResNet)."""
    network = build(name, pool="gem").eval()
    (gem,) = [one for one in network.backbone.modules() if isinstance(one, GeM)]
    seen = {}
    gem.register_forward_hook(lambda _, args, output: seen.update(features=args[0], pooled=output))
    network.backbone(torch.randn(2, 3, 64, 64))
    axes = (2, 3) if seen["features"].shape[1] == network.backbone.num_features else (1, 2)
    with torch.no_grad():
        gem.p.fill_(1.0)
    features = seen["features"].detach().abs() + 0.1
    torch.testing.assert_close(gem(features).flatten(1), features.mean(dim=axes))


def test_gem_tends_to_the_maximum_and_learns():
    features = torch.rand(2, 4, 5, 5)
    torch.testing.assert_close(GeM(p=300.0)(features), features.amax(dim=(2, 3)), atol=0.03, rtol=0)
    gem = GeM()
    expected = features.pow(3).mean(dim=(2, 3)).pow(1 / 3)
    torch.testing.assert_close(gem(features), expected)
    gem(features).sum().backward()
    assert gem.p.grad.abs() > 0


def test_gem_of_features_below_zero_is_finite():
    gem = GeM()
    features = (-torch.rand(1, 2, 3, 3)).requires_grad_()
    gem(features).sum().backward()
    assert torch.isfinite(features.grad).all()


def test_pools_that_a_backbone_does_not_have():
    assert refusal(backbone="test_vit", pool="gem") == (
        "model.pool=gem: test_vit has no feature map to pool; set model.pool=avg"
    )
    assert refusal(backbone="levit_128s", pool="max", image_size=(224, 224)) == (
        "model.pool=max: levit_128s does not take it (Only avg pooling (or none) is supported.); set model.pool=auto"
    )


def make_head(prior=None, is_multiclass=False, **named):
    torch.manual_seed(0)
    return Head(6, 3, Model(**named), prior, is_multiclass)


def test_activations_are_the_settings():
    assert set(ACTIVATIONS) == set(settings()["model.head_activation"].metadata["choices"])


def test_head_layers():
    head = build(head_widths=[16, 8], head_activation="gelu", head_init="orthogonal", drop_rate=0.3).head
    layers = [one for one in head.modules() if isinstance(one, nn.Linear)]
    assert [(one.in_features, one.out_features) for one in layers] == [(512, 16), (16, 8), (8, 2)]
    assert sum(isinstance(one, nn.GELU) for one in head.modules()) == 2
    assert [one.p for one in head.modules() if isinstance(one, nn.Dropout)] == [0.3] * 3
    assert (layers[0].bias == 0).all()


def test_leaky_relu_has_its_slope():
    head = make_head(head_widths=[4], head_activation="leaky_relu", leaky_slope=0.3)
    assert [one.negative_slope for one in head.modules() if isinstance(one, nn.LeakyReLU)] == [0.3]


@pytest.mark.parametrize("is_multiclass", [False, True])
def test_prior_bias_predicts_the_frequencies(is_multiclass):
    prior = torch.tensor([0.7, 0.1, 0.2])
    head = make_head(prior, is_multiclass, prior_bias=True, head_init="zero")
    logits = head(torch.randn(2, 6))
    probs = logits.softmax(dim=1) if is_multiclass else logits.sigmoid()
    torch.testing.assert_close(probs, prior.expand(2, 3))
    assert (make_head(prior, is_multiclass, head_init="zero").last.bias == 0).all()
    unseen = make_head([0.0, 1.0, 0.5], is_multiclass, prior_bias=True, head_init="zero")
    assert torch.isfinite(unseen.last.bias).all()


@pytest.mark.parametrize("backbone", ["resnet10t", "mobilenetv2_100", "convnext_atto", "test_vit", "densenet121"])
@pytest.mark.parametrize(("name", "kind"), [("tanh", "Tanh"), ("leaky_relu", "LeakyReLU"), ("gelu", "GELU")])
def test_backbone_activation(backbone, name, kind):
    network = build(backbone, backbone_activation=name, leaky_slope=0.2, image_size=(32, 32)).backbone
    found = [one for one in network.modules() if re.fullmatch("Tanh|LeakyReLU|GELU|ReLU6?|SiLU", type(one).__name__)]
    assert {type(one).__name__ for one in found} == {kind}
    if name == "leaky_relu":
        assert {one.negative_slope for one in found} == {0.2}


def test_architecture_settings_that_a_backbone_does_not_take():
    assert refusal(backbone="poolformer_s12", backbone_activation="tanh") == (
        "model.backbone_activation: poolformer_s12 does not take it; set model.backbone_activation=default"
    )
    assert refusal(backbone="vgg11", drop_path_rate=0.2) == (
        "model.drop_path_rate: vgg11 does not take it; set model.drop_path_rate=0"
    )


def test_drop_path_leaves_branches_out_in_training_alone():
    network = build(drop_path_rate=0.5, kwargs={"zero_init_last": False})  # else branches begin as zero
    rates = [one.drop_prob for one in network.modules() if isinstance(one, DropPath)]
    assert rates == sorted(rates)
    assert rates[-1] == 0.5
    images = torch.randn(8, 3, 64, 64)
    assert not torch.equal(network.train()(images), network(images))
    assert torch.equal(network.eval()(images), network(images))


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto"])
def test_grad_checkpointing_keeps_less_and_gives_the_same_gradients(name):
    images, gradients, kept = torch.randn(2, 3, 64, 64), [], []
    for is_on in (False, True):
        network = build(name, grad_checkpointing=is_on)
        kept.append(0)

        def count(tensor):
            kept[-1] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = network(images).square().sum()
        loss.backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)
    assert kept[1] < 0.5 * kept[0]


def test_grad_checkpointing_that_a_backbone_does_not_have():
    assert refusal(backbone="convit_tiny", grad_checkpointing=True, image_size=(224, 224)) == (
        "model.grad_checkpointing=true: timm has none for convit_tiny; lower train.batch_size instead"
    )


def test_normalize_center_takes_the_mean_alone():
    network = build(network={"normalize": "center", "pixel_stats": ([10.0, 20.0, 30.0], [1.0, 2.0, 3.0])})
    image = torch.tensor([10.0, 20.0, 285.0]).expand(1, 4, 4, 3)
    torch.testing.assert_close(network.normalize(image)[0, :, 0, 0], torch.tensor([0.0, 0.0, 1.0]))


def test_zero_head_starts_undecided():
    network = build(head_init="zero").eval()
    assert (network(torch.randn(2, 3, 64, 64)) == 0).all()
    assert refusal(head_init="zero", head_widths=[8]) == (
        "model.head_init=zero: hidden layers of zeros never learn (model.head_widths=[8]); "
        "set model.head_init=he_normal or model.head_widths=[]"
    )


def test_dropout_acts_in_training_at_its_rate_and_not_in_evaluation():
    head = make_head(drop_rate=0.3)
    seen = []
    head.last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    features = torch.ones(5000, 6)
    head.train()(features)
    head.eval()(features)
    dropped, kept = (seen[0] == 0), seen[0][seen[0] != 0]
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.01)
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / 0.7))
    assert torch.equal(seen[1], features)


def test_multi_sample_dropout():
    features = torch.ones(1, 6)
    head = make_head(drop_rate=0.5, dropout_samples=4)
    torch.manual_seed(1)
    averaged = head.train()(features)
    torch.manual_seed(1)
    masks = [head.dropout(features) for _ in range(4)]
    torch.testing.assert_close(averaged, torch.stack([head.last(one) for one in masks]).mean(dim=0))
    torch.testing.assert_close(head.eval()(features), head.last(features))


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


def test_an_unknown_tag():
    assert refusal(backbone="resnet10t.foo") == (
        "model.backbone=resnet10t.foo: resnet10t has no weights foo; choose one of c3_in1k"
    )


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
        "model.backbone=test_resnet.r160_in1k: its pretrained weights could not be downloaded (LocalEntryNotFoundError)"
    )
    assert message.endswith("give a file with model.weights=PATH, or train from scratch with model.pretrained=false")
    assert capfd.readouterr() == ("", "")


def test_backbones_and_arguments_that_do_not_exist():
    assert refusal(backbone="resnet10") == "model.backbone=resnet10: not a timm model; did you mean resnet10t?"
    assert refusal(backbone="test_mambaout", pretrained=True) == (
        "model.backbone=test_mambaout: timm has no pretrained weights for it; "
        "give model.weights=FILE or set model.pretrained=false"
    )
    message = refusal(kwargs={"pad_typ": "same"})
    assert message == "model.kwargs.pad_typ: resnet10t does not take it; set model.kwargs={}"
    assert "pad_typ" in message


def test_an_image_size_that_does_not_fit():
    assert refusal(backbone="test_vit", image_size=(50, 50)).startswith(
        "image_size=[50, 50]: test_vit cannot take it ("
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


def test_networks_that_normalise_alike_have_equal_pixel_stats():
    one, two = (build(image_size=(32, 32)) for _ in range(2))
    other = build(image_size=(32, 32), network={"normalize": "none"})
    assert one.pixel_stats == two.pixel_stats != other.pixel_stats
    assert other.pixel_stats == ((0.0,) * 3, (255.0,) * 3)

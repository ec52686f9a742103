"""timm's backbones and one's own, and what is set in them: activations, BatchNorm, dropout, gradient checkpointing."""

import copy
import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import DropPath
from torch import nn

from src.model.backbone import BACKBONES, add_dropout2d
from src.model.freezing import list_stages
from tests.model.building import build, refusal


@pytest.mark.parametrize("backbone", ["resnet10t", "mobilenetv2_100", "convnext_atto", "test_vit", "densenet121"])
@pytest.mark.parametrize(("name", "kind"), [("tanh", "Tanh"), ("leaky_relu", "LeakyReLU"), ("gelu", "GELU")])
def test_activation_by_name(backbone, name, kind):
    network = build(backbone, kwargs={"act_layer": name}, image_size=(32, 32)).backbone
    found = [one for one in network.modules() if re.fullmatch("Tanh|LeakyReLU|GELU|ReLU6?|SiLU", type(one).__name__)]
    assert {type(one).__name__ for one in found} == {kind}
    if name == "leaky_relu":
        assert {one.negative_slope for one in found} == {0.01}
        network = build(backbone, kwargs={"act_layer": name, "leaky_slope": 0.2}, image_size=(32, 32)).backbone
        assert {one.negative_slope for one in network.modules() if type(one).__name__ == kind} == {0.2}


def test_arguments_that_a_backbone_does_not_take():
    assert refusal(backbone="vgg11", kwargs={"drop_block_rate": 0.1}) == (
        "model.kwargs.drop_block_rate: vgg11 does not take it; set model.kwargs={}"
    )
    assert refusal(backbone="vgg11", drop_path_rate=0.2) == (
        "model.drop_path_rate: vgg11 does not take it; set model.drop_path_rate=0"
    )
    assert refusal(kwargs={"pad_typ": "same"}) == (
        "model.kwargs.pad_typ: resnet10t does not take it; set model.kwargs={}"
    )
    assert refusal(kwargs={"act_layer": "gelo"}) == (
        "model.kwargs.act_layer=gelo: not an activation of timm; for example relu, gelu or silu"
    )


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("num_classes", "leave it out"),
        ("in_chans", "set competition.channels instead"),
        ("pretrained", "set model.pretrained instead"),
        ("pretrained_cfg_overlay", "set model.weights instead"),
        ("checkpoint_path", "set model.weights instead"),
        ("global_pool", "set model.pool instead"),
        ("img_size", "set image_size instead"),
        ("features_only", "leave it out"),
    ],
)
def test_arguments_that_follow_from_settings(key, advice):
    assert refusal(kwargs={key: ""}) == f"model.kwargs.{key}: follows from other settings; {advice}"


@pytest.mark.parametrize(
    ("name", "size", "lost", "choices"),
    [
        ("vit_tiny_patch16_224", (100, 100), "rows (4) and columns (4)", ["96", "112"]),
        ("vit_tiny_patch16_224", (100, 96), "rows (4)", ["96", "[112,96]"]),
        ("vit_tiny_patch16_224", (64, 97), "columns (1)", ["[64,96]", "[64,112]"]),
        ("convnext_atto", (50, 50), "rows (2) and columns (2)", ["48", "52"]),
        ("mixer_s32_224", (48, 64), "rows (16)", ["[32,64]", "64"]),
    ],
)
def test_pixels_that_no_patch_holds(name, size, lost, choices):
    advice = " or ".join(f"image_size={one}" for one in choices)
    assert refusal(backbone=name, image_size=size) == (
        f"image_size={list(size)}: {name} never sees the last {lost}; set {advice}"
    )
    for choice in choices:  # which holds
        height, width = choice.strip("[]").split(",") if "," in choice else (choice, choice)
        assert build(name, image_size=(int(height), int(width)))


@pytest.mark.parametrize(
    "name", ["resnet10t", "mobilenetv2_100", "test_efficientnet", "densenet121", "swin_s3_tiny_224"]
)
def test_networks_that_see_all_pixels_take_any_size(name):
    assert build(name, image_size=(61, 75) if "swin" not in name else (60, 76))


def test_names_that_do_not_exist():
    assert refusal(backbone="resnet10") == "model.backbone=resnet10: not a timm model; did you mean resnet10t?"
    assert refusal(backbone="simple_cmn") == "model.backbone=simple_cmn: not a timm model; did you mean simple_cnn?"
    assert refusal(backbone="resnet10t.foo") == (
        "model.backbone=resnet10t.foo: resnet10t has no weights foo; choose one of c3_in1k"
    )


@pytest.mark.parametrize("kwargs", [{"layers": 3}, {"layers": [1]}, {"block": "none"}, {"stem_width": "a"}])
def test_a_backbone_that_cannot_be_built_is_named_in_one_line(kwargs):
    assert re.match(r"model\.backbone=resnet10t: cannot be built with |model\.kwargs", refusal(kwargs=kwargs))


def test_an_image_size_that_does_not_fit():
    assert refusal(backbone="levit_128s", image_size=(50, 50)).startswith(
        "image_size=[50, 50]: levit_128s cannot take it ("
    )


def test_the_setting_at_fault_is_found_by_trying_without_it(tmp_path):
    """As the embedded competition's file sets it: no advice names the size that is set already."""
    at_fault = {"backbone": "test_vit", "image_size": (224, 224), "kwargs": {"norm_layer": "groupnorm1"}}
    message = refusal(**at_fault)
    assert message.startswith("model.kwargs.norm_layer=groupnorm1: test_vit cannot take it (")
    assert message.endswith("; leave it out, or set model.kwargs={} where a file has it")
    assert build(**at_fault | {"kwargs": {}})
    model = timm.create_model("test_vit", img_size=224)
    save_file(model.state_dict(), tmp_path / "test_vit.safetensors")
    assert refusal(**at_fault, pretrained=True, weights=str(tmp_path)) == message
    message = refusal(kwargs={"norm_layer": "identity", "act_layer": "gelu"})
    assert message.startswith("model.kwargs.norm_layer=identity: resnet10t cannot take it (")
    message = refusal(backbone="test_vit", image_size=(100, 100), kwargs={"act_layer": "gelu"})
    assert message.startswith("image_size=[100, 100]: test_vit cannot take it (")
    assert message.endswith("; try image_size=96 or image_size=112")
    assert build("test_vit", image_size=(96, 96))


def test_what_the_first_forward_finds(monkeypatch):
    def silent(images):
        raise AssertionError  # without a word, as timm's often are

    found = {"Silent": silent, "Maps": lambda images: images, "Many": lambda images: [images]}
    for name, forward in found.items():
        module = type(name, (nn.Module,), {"forward": lambda self, images, forward=forward: forward(images)})
        monkeypatch.setitem(BACKBONES, name, lambda channels, image_size, module=module: module())
    assert refusal(backbone="Silent") == (
        "image_size=[64, 64]: Silent cannot take it (AssertionError); choose another backbone"
    )
    assert refusal(backbone="Maps") == (
        "model.backbone=Maps: returns (1, 3, 64, 64) for one image, not (1, D); look at model.kwargs"
    )
    assert refusal(backbone="Many") == (
        "model.backbone=Many: returns list for one image, not (1, D); look at model.kwargs"
    )


def test_the_example_of_a_backbone_of_ones_own_learns():
    torch.manual_seed(0)
    network = build("simple_cnn", kwargs={"widths": [8, 16]}, image_size=(16, 16), freeze="1")
    assert network.head.last.in_features == 16
    assert [name for name, _ in list_stages(network)] == ["blocks.0", "blocks.1", "head"]
    assert network.pixel_stats == build().pixel_stats  # ImageNet's
    images = torch.randn(8, 3, 16, 16)
    before = network.backbone.blocks[1][0].weight.clone()
    optimizer = torch.optim.SGD([one for one in network.parameters() if one.requires_grad], lr=0.1)
    losses = []
    for _ in range(5):
        loss = (network(image=images) - 1).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert not torch.equal(network.backbone.blocks[1][0].weight, before)


def test_a_grey_image_and_normalisation_of_ones_own_backbone():
    network = build("simple_cnn", channels=1)
    assert network.backbone.blocks[0][0].in_channels == 1
    torch.testing.assert_close(network.pixel_mean.item(), 255 * (0.485 + 0.456 + 0.406) / 3)


def test_weights_of_ones_own_backbone_are_loaded_strictly(tmp_path):
    trained = build("simple_cnn")
    for parameter in trained.parameters():
        nn.init.normal_(parameter)
    state = trained.backbone.state_dict()
    save_file(state, tmp_path / "simple_cnn.safetensors")
    network = build("simple_cnn", pretrained=True, weights=str(tmp_path))
    for name, tensor in network.backbone.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert network.freeze_batchnorm
    for changes, reason in (
        ({"blocks.0.0.weight": torch.zeros(1)}, "blocks.0.0.weight is (1), not (32, 3, 3, 3)"),
        ({"blocks.0.0.weight": None}, 'Missing key(s) in state_dict: "blocks.0.0.weight".'),
        ({"more": torch.zeros(1)}, 'Unexpected key(s) in state_dict: "more".'),
    ):
        changed = {name: one for name, one in (state | changes).items() if one is not None}
        save_file(changed, tmp_path / "simple_cnn.safetensors")
        message = refusal(backbone="simple_cnn", pretrained=True, weights=str(tmp_path))
        assert message == (
            f"{tmp_path}/simple_cnn.safetensors: these weights do not fit simple_cnn ({reason}); "
            "set model.backbone to theirs"
        )


def test_what_ones_own_backbone_does_not_have():
    assert refusal(backbone="simple_cnn", pretrained=True) == (
        "model.pretrained=true: simple_cnn comes without weights; give model.weights=FILE or set model.pretrained=false"
    )
    assert build("simple_cnn", pretrained=True, network={"load_pretrained": False})
    assert refusal(backbone="simple_cnn", drop_path_rate=0.1) == (
        "model.drop_path_rate: simple_cnn does not take it; set model.drop_path_rate=0"
    )
    assert refusal(backbone="simple_cnn", kwargs={"width": [8]}) == (
        "model.kwargs: simple_cnn has no width (it has widths); did you mean widths?"
    )
    assert refusal(backbone="simple_cnn", kwargs={"widths": ["a"]}) == "model.kwargs.widths=a: must be a finite number"
    assert refusal(backbone="simple_cnn", kwargs={"widths": [1.5]}).startswith(
        "model.kwargs.widths=[1.5]: simple_cnn cannot take it ("
    )
    assert refusal(backbone="simple_cnn", grad_checkpointing=True) == (
        "model.grad_checkpointing=true: timm has none for simple_cnn; lower train.batch_size instead"
    )
    assert refusal(backbone="simple_cnn", dropout2d_rate=0.1) == (
        "model.dropout2d_rate=0.1: simple_cnn has no stages; set model.drop_rate or drop_path_rate"
    )
    assert refusal(backbone="simple_cnn", pool="max").startswith("model.pool=max: simple_cnn does not take it (")
    assert refusal(backbone="simple_cnn", pool="gem") == (
        "model.pool=gem: simple_cnn has no feature map to pool; set model.pool=auto"
    )


def test_drop_path_leaves_branches_out_in_training_alone():
    network = build(drop_path_rate=0.5, kwargs={"zero_init_last": False})  # else branches begin as zero
    rates = [one.drop_prob for one in network.modules() if isinstance(one, DropPath)]
    assert rates == sorted(rates)
    assert rates[-1] == 0.5
    images = torch.randn(8, 3, 64, 64)
    assert not torch.equal(network.train()(image=images), network(image=images))
    assert torch.equal(network.eval()(image=images), network(image=images))


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
            loss = network(image=images).square().sum()
        loss.backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)
    assert kept[1] < 0.5 * kept[0]


def test_grad_checkpointing_that_a_backbone_does_not_have():
    assert refusal(backbone="convit_tiny", grad_checkpointing=True, image_size=(224, 224)) == (
        "model.grad_checkpointing=true: timm has none for convit_tiny; lower train.batch_size instead"
    )


def test_batchnorm_momentum_is_the_share_of_the_batch():
    network = build(batchnorm_kwargs={"momentum": 0.25, "eps": 0.01}, image_size=(32, 32))
    norms = [one for one in network.modules() if isinstance(one, nn.BatchNorm2d)]
    assert {(one.momentum, one.eps) for one in norms} == {(0.25, 0.01)}
    first, seen = network.backbone.bn1, []
    first.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    network.train()(image=torch.randn(4, 3, 32, 32))
    torch.testing.assert_close(first.running_mean, 0.25 * seen[0].mean((0, 2, 3)))
    assert {one.momentum for one in build().modules() if isinstance(one, nn.BatchNorm2d)} == {0.1}


def test_a_backbone_without_batchnorm_is_refused():
    assert refusal(backbone="convnext_atto", batchnorm_kwargs={"eps": 0.01}) == (
        "model.batchnorm_kwargs.eps=0.01: the backbone has no BatchNorm; leave it out"
    )


class TwoStages(nn.Module):
    feature_info = ({"module": "first", "num_chs": 2000}, {"module": "second", "num_chs": 2000})

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Identity(), nn.Identity()

    def forward(self, images):
        return self.second(self.first(images))


def test_dropout2d_leaves_out_whole_channels_at_its_rate():
    torch.manual_seed(0)
    stages = TwoStages()
    add_dropout2d(stages, 0.3, "two")
    images = torch.ones(4, 2000, 2, 2, requires_grad=True)
    output = stages.train()(images)
    kept = output[:, :, 0, 0] > 0
    expected = (kept / 0.7)[:, :, None, None].expand_as(output)  # once: not behind the last stage
    torch.testing.assert_close(output, expected)
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.02)
    assert torch.equal(stages.eval()(images), images)


def test_a_copy_in_evaluation_does_not_ask_the_original():
    network = build(dropout2d_rate=0.5, image_size=(32, 32)).train()
    average = copy.deepcopy(network).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(average(image=images), average(image=images))
    assert not torch.equal(network(image=images), network(image=images))


def test_frozen_stages_drop_nothing():
    network = build(dropout2d_rate=0.5, image_size=(32, 32))
    for parameter in network.backbone.parameters():
        parameter.requires_grad_(False)
    images = torch.randn(2, 3, 32, 32)
    network.train()
    assert torch.equal(network(image=images), network(image=images))


def test_a_stem_without_parameters_of_its_own_drops_nothing_when_frozen():
    network = build("resnet18", dropout2d_rate=0.9, image_size=(32, 32))
    for name, parameter in network.backbone.named_parameters():
        parameter.requires_grad_(name.startswith("layer4"))
    seen = []
    network.backbone.layer1.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    images = torch.randn(2, 3, 32, 32)
    network.train()(image=images)
    network.eval()(image=images)
    assert torch.equal(seen[0], seen[1])


def test_dropout2d_needs_feature_maps():
    assert refusal(backbone="test_vit", dropout2d_rate=0.2) == (
        "model.dropout2d_rate=0.2: test_vit has no feature maps; set model.drop_rate"
    )


@pytest.mark.parametrize(
    ("kind", "groups"), [("batch", None), ("group", [8, 8, 16, 16]), ("layer", [1] * 4), ("none", None)]
)
@pytest.mark.parametrize("name", ["simple_cnn", "test_efficientnet"])  # timm's norms there hold an activation
def test_norms_of_feature_maps_are_replaced(kind, groups, name):
    network = build(name, norm=kind, image_size=(32, 32), kwargs={"widths": [32, 32, 64, 64]} if "cnn" in name else {})
    norms = [one for one in network.backbone.modules() if isinstance(one, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm))]
    assert {type(one) for one in norms} <= {nn.BatchNorm2d if kind == "batch" else nn.GroupNorm} or name != "simple_cnn"
    assert (kind == "none") == (not norms)
    if groups and name == "simple_cnn":
        assert [one.num_groups for one in norms] == groups
    images = torch.randn(2, 3, 32, 32)
    before = build(name, image_size=(32, 32), kwargs={"widths": [32, 32, 64, 64]} if "cnn" in name else {})
    one, two = (sum(p.numel() for p in each.parameters()) for each in (network, before))
    assert one == two if kind != "none" else one < two
    network.train()(image=images).sum().backward()
    counts = [sum("ReLU" in type(one).__name__ or "SiLU" in type(one).__name__ for one in each.modules())
              for each in (network, before)]  # fmt: skip
    assert counts[0] == counts[1]


def test_layer_norm_of_maps_is_one_group():
    torch.manual_seed(0)
    norm = build("simple_cnn", norm="layer").backbone.blocks[0][1]
    maps = torch.randn(2, 32, 5, 7)
    mean, var = maps.mean((1, 2, 3), keepdim=True), maps.var((1, 2, 3), unbiased=False, keepdim=True)
    torch.testing.assert_close(norm(maps), (maps - mean) / (var + 1e-5).sqrt())


def test_norms_that_cannot_be_replaced():
    assert refusal(backbone="test_vit", norm="group") == (
        "model.norm=group: test_vit has no norm of feature maps; set model.norm=backbone"
    )
    network = build("resnet10t", norm="none", kwargs={"zero_init_last": False})
    assert not any(isinstance(one, nn.BatchNorm2d) for one in network.modules())
    first = next(one for one in build("resnet10t", norm="group").backbone.layer1.modules() if type(one) is nn.GroupNorm)
    assert first.num_groups == 16


def test_first_weights_of_the_whole_backbone():
    torch.manual_seed(0)
    for method, deviation in (("he_normal", (2 / (64 * 9)) ** 0.5), ("normal", 0.05)):
        convs = [one for one in build(init=method, init_std=0.05).backbone.modules() if isinstance(one, nn.Conv2d)]
        conv = next(one for one in convs if one.weight.shape[1:] == (64, 3, 3))
        assert conv.weight.std().item() == pytest.approx(deviation, rel=0.02)
    plain, again = build().state_dict(), build(init="default").state_dict()
    assert all(torch.equal(plain[key], again[key]) for key in plain)

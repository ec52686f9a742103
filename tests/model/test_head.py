"""Poolings and heads against formulas; first weights: their variance is the one that the papers ask for."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from src.config.settings import Config, Model
from src.errors import UserError
from src.model import head as module
from src.model.freezing import list_stages
from src.model.head import GeM, NewPooling, build_head, initialize_layer
from src.model.network import build_network
from tests.model.building import build, make_config, refusal

VARIANCE = {  # of a layer with 400 inputs and 600 outputs
    "zero": 0.0,
    "normal": 0.01**2,
    "xavier_uniform": 2 / 1000,
    "xavier_normal": 2 / 1000,
    "he_uniform": 2 / 400,
    "he_normal": 2 / 400,
    "lecun_normal": 1 / 400,
}


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
    ["resnet10t", "mobilenetv2_100", "mobilenetv3_small_050", "convnext_atto", "test_resnet", "swin_s3_tiny_224",
     "tresnet_m"],
)  # fmt: skip
def test_gem_with_a_power_of_one_is_the_average(name):
    """Of positive features; in front of a norm or a convolution, in NHWC (Swin), and in timm's fast pool (TResNet)."""
    network = build(name, pool="gem").eval()
    (pool,) = [one for one in network.backbone.modules() if isinstance(one, NewPooling)]
    seen = {}
    pool.register_forward_hook(lambda _, args, output: seen.update(features=args[0], pooled=output))
    network.backbone(torch.randn(2, 3, 64, 64))
    axes = (2, 3) if seen["features"].shape[1] == network.backbone.num_features else (1, 2)
    with torch.no_grad():
        pool.pooling.p.fill_(1.0)
    features = seen["features"].detach().abs() + 0.1
    torch.testing.assert_close(pool(features).flatten(1), features.mean(dim=axes))


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
    # How it fails is timm's, and another with each of its versions; that it is the pooling is ours.
    message = refusal(backbone="levit_128s", pool="max", image_size=(224, 224))
    assert re.match("model.(pool=max|backbone=levit_128s): ", message)


def test_a_pooling_that_learns_is_refused_where_features_are_kept():
    model = Model(backbone="resnet10t", pretrained=True, freeze="head_only", pool="gem")
    with pytest.raises(UserError) as error:
        build_network(Config(model=model, image_size=(64, 64)), 2, load_pretrained=False)
    assert str(error.value) == (
        "model.pool=gem: learns inside the backbone, whose features are kept; set train.views=0"
    )


class Softmax(nn.Module):
    """A fork's pooling: the mean of each map, weighed by a softmax of a learned factor."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.zeros(()))

    def forward(self, features):
        flat = features.flatten(2)
        return (flat * (self.factor * flat).softmax(dim=2)).sum(dim=2)


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "swin_s3_tiny_224"])
def test_a_pooling_of_ones_own_takes_timms_place_and_learns_as_the_head(name, monkeypatch):
    monkeypatch.setitem(module.POOLINGS, "softmax", Softmax)
    network, plain = build(name, pool="softmax").eval(), build(name, pool="avg").eval()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(network(image=images), plain(image=images))
    *_, (last, names) = list_stages(network)
    assert (last, [one for one in names if "factor" in one]) == ("head", names[2:])
    assert len(names) == 3


def make_head(prior=None, drop_rate=0.0, task="binary", **kwargs):
    torch.manual_seed(0)
    return build_head(make_config(drop_rate=drop_rate, task=task, head_kwargs=kwargs), 6, 3, prior)


def test_head_layers():
    kwargs = {"widths": [16, 8], "activation": "gelu", "init": "orthogonal"}
    head = build(head_kwargs=kwargs, drop_rate=0.3).head
    layers = [one for one in head.modules() if isinstance(one, nn.Linear)]
    assert [(one.in_features, one.out_features) for one in layers] == [(512, 16), (16, 8), (8, 2)]
    assert sum(isinstance(one, nn.GELU) for one in head.modules()) == 2
    assert [one.p for one in head.modules() if isinstance(one, nn.Dropout)] == [0.3] * 3
    assert (layers[0].bias == 0).all()


@pytest.mark.parametrize("name", module.ACTIVATIONS)
def test_every_activation_follows_each_hidden_layer(name):
    head = make_head(widths=[4, 5], activation=name)
    assert sum(type(one) is module.ACTIVATIONS[name] for one in head.modules()) == 2


def test_leaky_relu_has_its_slope():
    head = make_head(widths=[4], activation="leaky_relu", leaky_slope=0.3)
    assert [one.negative_slope for one in head.modules() if isinstance(one, nn.LeakyReLU)] == [0.3]


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_prior_bias_predicts_the_frequencies(task):
    prior = torch.tensor([0.7, 0.1, 0.2])
    head = make_head(prior, task=task, prior_bias=True, init="zero")
    logits = head(torch.randn(2, 6))
    probs = logits.softmax(dim=1) if task == "multiclass" else logits.sigmoid()
    torch.testing.assert_close(probs, prior.expand(2, 3))
    assert (make_head(prior, task=task, init="zero").last.bias == 0).all()
    unseen = make_head([0.0, 1.0, 0.5], task=task, prior_bias=True, init="zero")
    assert torch.isfinite(unseen.last.bias).all()
    assert unseen.last.bias.requires_grad


def test_zero_head_starts_undecided():
    network = build(head_kwargs={"init": "zero"}).eval()
    assert (network(image=torch.randn(2, 3, 64, 64)) == 0).all()
    assert refusal(head_kwargs={"init": "zero", "widths": [8]}) == (
        "model.head_kwargs.init=zero: hidden layers of zeros never learn (model.head_kwargs.widths=[8]); "
        "set model.head_kwargs.init=he_normal or model.head_kwargs.widths=[]"
    )


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"width": [8]}, "model.head_kwargs: mlp has no width (it has widths, activation, leaky_slope, init, "
                         "init_std, prior_bias, dropout_samples, batchnorm); did you mean widths?"),
        ({"is_multiclass": True}, "model.head_kwargs: mlp has no is_multiclass "),
        ({"widths": [8, 0]}, "model.head_kwargs.widths=[8, 0]: each must be a whole number, at least 1"),
        ({"widths": ["a"]}, "model.head_kwargs.widths=['a']: each must be a whole number, at least 1"),
        ({"activation": "rely"}, "model.head_kwargs.activation=rely: not one of "),
        ({"init": "he"}, "model.head_kwargs.init=he: not one of default, zero, normal, "),
        ({"leaky_slope": 2.0}, "model.head_kwargs.leaky_slope=2.0: must be from 0 to 1"),
        ({"dropout_samples": 0}, "model.head_kwargs.dropout_samples=0: must be at least 1"),
        ({"dropout_samples": 3},
         "model.head_kwargs.dropout_samples=3: all masks are alike without dropout; set model.drop_rate"),
    ],
)  # fmt: skip
def test_arguments_that_the_head_does_not_take(kwargs, message):
    with pytest.raises(UserError) as error:
        make_head(**kwargs)
    assert str(error.value).startswith(message)


def test_a_head_of_ones_own_gets_what_it_has_parameters_for(monkeypatch):
    given = {}

    def plain(num_features, num_targets, bias=True):
        return nn.Linear(num_features, num_targets, bias)

    def full(num_features, num_targets, is_multiclass, drop_rate, prior):
        given.update(is_multiclass=is_multiclass, drop_rate=drop_rate, prior=prior)
        return nn.Linear(num_features, num_targets)

    monkeypatch.setitem(module.HEADS, "plain", plain)
    monkeypatch.setitem(module.HEADS, "full", full)
    network = build(head="plain", head_kwargs={"bias": False}, num_targets=4)
    assert network.head.bias is None
    assert network(image=torch.randn(2, 3, 64, 64)).shape == (2, 4)
    build(head="full", drop_rate=0.5, task="multiclass", network={"prior": [0.5, 0.5]})
    assert given == {"is_multiclass": True, "drop_rate": 0.5, "prior": [0.5, 0.5]}
    assert refusal(head="plain", drop_rate=0.5) == "model.drop_rate=0.5: model.head=plain has no dropout; set it to 0"


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


@pytest.mark.parametrize("method", VARIANCE)
def test_variance(method):
    torch.manual_seed(0)
    layer = nn.Linear(400, 600)
    initialize_layer(layer, method)
    assert layer.weight.var().item() == pytest.approx(VARIANCE[method], rel=0.02)
    assert layer.weight.mean().abs().item() < 1e-3
    assert (layer.bias == 0).all()


def test_a_convolution_counts_its_window():
    torch.manual_seed(0)
    for method, variance in (("he_normal", 2 / (32 * 9)), ("lecun_normal", 1 / (32 * 9))):
        layer = nn.Conv2d(32, 256, 3, bias=False)
        initialize_layer(layer, method)
        assert layer.weight.var().item() == pytest.approx(variance, rel=0.02)


def test_orthogonal_rows():
    layer = nn.Linear(64, 16)
    initialize_layer(layer, "orthogonal")
    torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(16), atol=1e-5, rtol=0)


def test_default_and_other_modules_stay_as_they_are():
    torch.manual_seed(0)
    for layer in (nn.Linear(8, 8), nn.BatchNorm2d(8)):
        before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        initialize_layer(layer, "default" if isinstance(layer, nn.Linear) else "zero")
        for name, tensor in layer.state_dict().items():
            assert torch.equal(tensor, before[name])


def test_the_deviation_of_normal_weights_is_said():
    torch.manual_seed(0)
    layer = nn.Linear(400, 600)
    initialize_layer(layer, "normal", 0.3)
    assert layer.weight.std().item() == pytest.approx(0.3, rel=0.02)
    network = build(head_kwargs={"widths": [64], "init": "normal", "init_std": 0.2})
    assert network.head.hidden[1].weight.std().item() == pytest.approx(0.2, rel=0.05)


def test_batchnorm_in_hidden_layers():
    head = build(head_kwargs={"widths": [16, 8], "batchnorm": True, "activation": "tanh"}).head
    assert [type(one).__name__ for one in head.hidden] == ["Dropout", "Linear", "BatchNorm1d", "Tanh"] * 2
    features, linear = torch.randn(32, 512), head.hidden[1]
    hidden = linear(features)
    expected = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(head.train().hidden[:4](features), expected.tanh(), rtol=1e-4, atol=1e-5)
    assert refusal(head_kwargs={"batchnorm": True}) == (
        "model.head_kwargs.batchnorm=true: there is no hidden layer to stand in; set model.head_kwargs.widths=[64]"
    )

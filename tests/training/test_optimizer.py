"""Parameter groups by rate and decay; optimizers against torch's own, and to a known minimum."""

import copy
import math

import pytest
import timm
import torch
from torch import nn

from src.config.load import load_config
from src.config.settings import Optimizer
from src.errors import UserError
from src.model.network import build_network
from src.training.optimizer import align_memory, build_optimizer, build_parameter_groups


class Small(nn.Module):
    """A backbone of one convolution with BatchNorm, and a head."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.head = nn.Linear(2, 1)

    def forward(self, images):
        return self.head(self.backbone(images).mean((2, 3)))


class OneStage(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Sequential(nn.Conv2d(1, 2, 3)), nn.Linear(2, 1)


def build(backbone, *words):
    """A network for images of 32x32x3 without pretrained weights."""
    words = [f"model.backbone={backbone}", "model.kwargs={}", "image_size=32", "competition.channels=3", *words]
    return build_network(load_config(words), 2)


def test_groups_split_by_rate_and_decay():
    settings = Optimizer(lr=0.1, head_lr_factor=5.0, weight_decay=0.3)
    groups = build_parameter_groups(Small(), settings)
    found = [(g["name"], g["lr"], g["weight_decay"], [tuple(p.shape) for p in g["params"]]) for g in groups]
    assert found == [
        ("backbone", 0.1, 0.3, [(2, 1, 3, 3)]),
        ("backbone", 0.1, 0.0, [(2,), (2,), (2,)]),
        ("head", 0.5, 0.3, [(1, 2)]),
        ("head", 0.5, 0.0, [(1,)]),
    ]


def test_decay_all_reaches_biases_and_norms():
    groups = build_parameter_groups(Small(), Optimizer(weight_decay=0.3, l1_penalty=0.2, decay_all=True))
    assert [(g["name"], g["weight_decay"], g["l1_penalty"], len(g["params"])) for g in groups] == [
        ("backbone", 0.3, 0.2, 4),
        ("head", 0.3, 0.2, 2),
    ]


def test_layer_decay_lowers_the_rate_stage_by_stage():
    network = build("test_resnet")
    groups = build_parameter_groups(network, Optimizer(lr=0.1, head_lr_factor=5.0, layer_decay=0.5))
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates == {
        "conv1": 0.1 * 0.5**4,
        "layer1.0": 0.1 * 0.5**3,
        "layer2.0": 0.1 * 0.5**2,
        "layer3.0": 0.1 * 0.5,
        "layer4.0": 0.1,
        "head": 0.5,
    }
    seen = [parameter for group in groups for parameter in group["params"]]
    assert sorted(map(id, seen)) == sorted(map(id, network.parameters()))


def test_tokens_and_positions_are_not_decayed_and_gem_is_of_the_head():
    network = build("vit_tiny_patch16_224")
    groups = build_parameter_groups(network, Optimizer(weight_decay=0.1))
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    backbone = network.backbone
    assert not {id(backbone.pos_embed), id(backbone.cls_token), id(backbone.norm.weight)} & decayed
    assert id(backbone.blocks[0].attn.qkv.weight) in decayed
    network = build("resnet10t", "model.pool=gem")
    for layer_decay in (None, 0.5):
        groups = build_parameter_groups(network, Optimizer(layer_decay=layer_decay))
        (gem,) = [p for name, p in network.named_parameters() if "global_pool" in name]
        assert [group["name"] for group in groups if any(one is gem for one in group["params"])] == ["head"]


REFERENCES = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.01),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.8),
    "nesterov": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.8, nesterov=True),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.01),
    "adadelta": lambda parameters: torch.optim.Adadelta(parameters, lr=0.01),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "nadam": lambda parameters: torch.optim.NAdam(parameters, lr=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0),
    "radam": lambda parameters: torch.optim.RAdam(parameters, lr=0.01),
    "lion": lambda parameters: timm.optim.Lion(parameters, lr=0.01),
    "lamb": lambda parameters: timm.optim.Lamb(parameters, lr=0.01, weight_decay=0.0, always_adapt=True),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_each_name_is_the_library_s_own_step_for_step(name):
    torch.manual_seed(0)
    ours, theirs = Small(), Small()
    theirs.load_state_dict(ours.state_dict())
    kwargs = {"momentum": 0.8} if name in ("momentum", "nesterov") else {}
    one = build_optimizer(Optimizer(name=name, lr=0.01, head_lr_factor=1.0, kwargs=kwargs), ours)
    other = REFERENCES[name](theirs.parameters())
    for _ in range(3):  # the same gradients for both: that of a bias before BatchNorm is nothing but noise
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.grad = b.grad = torch.randn_like(a)
        one.step()
        other.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def minimise(settings, steps=400):
    """Pull the head's weights to (0.3, -0.2) with a rate that falls to zero; return them."""
    torch.manual_seed(0)
    network = Small()
    optimizer = build_optimizer(settings, network)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * (1 - step / steps)
        optimizer.zero_grad()
        (network.head.weight - torch.tensor([[0.3, -0.2]])).square().sum().backward()
        optimizer.step()
    return network.head.weight.detach()


@pytest.mark.parametrize(
    ("name", "lr"), [(name, {"adagrad": 0.5, "adadelta": 20.0}.get(name, 0.05)) for name in REFERENCES]
)
def test_optimizers_find_the_minimum_of_a_convex_problem(name, lr):
    found = minimise(Optimizer(name=name, lr=lr, head_lr_factor=1.0))
    torch.testing.assert_close(found, torch.tensor([[0.3, -0.2]]), atol=0.02, rtol=0)


@pytest.mark.parametrize(("name", "penalty"), [("sgd", 0.5), ("adam", 1.5)])
def test_l1_reaches_zero_where_l2_does_not(name, penalty):
    """The minimum of sum (w - a)^2 + p |w| is sign(a) max(|a| - p / 2, 0): by hand for a = (0.3, -0.2).

    Adam's steps have the size of the rate whatever the gradient's, so that a penalty below 1 cannot win.
    """
    settings = {"name": name, "lr": 0.05, "head_lr_factor": 1.0}
    lasso = minimise(Optimizer(**settings, l1_penalty=penalty))
    ridge = minimise(Optimizer(**settings, weight_decay=0.5))
    assert lasso[0, 1] == 0
    assert (ridge.abs() > 0.05).all()
    if name == "sgd":
        torch.testing.assert_close(lasso, torch.tensor([[0.05, 0.0]]), atol=1e-3, rtol=0)
        torch.testing.assert_close(ridge, torch.tensor([[0.3, -0.2]]) * 2 / 2.5, atol=1e-3, rtol=0)


def test_l1_leaves_biases_and_frozen_weights_alone():
    network = Small()
    network.backbone.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = build_optimizer(Optimizer(name="sgd", lr=1.0, head_lr_factor=1.0, l1_penalty=10.0), network)
    (0 * network(torch.zeros(2, 1, 5, 5))).sum().backward()
    optimizer.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in changed if "running" not in name and "num_batches" not in name} == {"head.weight"}
    assert (network.head.weight == 0).all()


@pytest.mark.parametrize("name", ["adam", "adamw", "momentum"])
def test_in_any_memory_format_and_from_a_state_of_another_the_steps_are_torch_s_plain_ones(name):
    def start(memory_format, **kwargs):
        torch.manual_seed(0)
        network = build("resnet10t")
        network = network.double().to(memory_format=memory_format).eval()
        return network, build_optimizer(Optimizer(name=name, lr=0.01, kwargs=kwargs), network)

    def step(network, optimizer, times):
        for number in range(times):
            generator = torch.Generator().manual_seed(number)
            images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=generator)
            network(image=images).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    first, first_optimizer = start(torch.contiguous_format)
    step(first, first_optimizer, 2)
    then, then_optimizer = start(torch.channels_last)
    then.load_state_dict(first.state_dict())
    then_optimizer.load_state_dict(copy.deepcopy(first_optimizer.state_dict()))
    align_memory(then_optimizer)
    assert then_optimizer.param_groups[0]["fused"]
    step(then, then_optimizer, 2)
    again, again_optimizer = start(torch.contiguous_format, foreach=False)
    again.load_state_dict(first.state_dict())
    state = {
        "state": first_optimizer.state_dict()["state"],
        "param_groups": again_optimizer.state_dict()["param_groups"],
    }
    again_optimizer.load_state_dict(state)
    step(again, again_optimizer, 2)
    for (key, found), expected in zip(then.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, msg=key)


def test_the_default_momentum_is_the_usual_one():
    for name, is_nesterov in (("momentum", False), ("nesterov", True)):
        [group, *_] = build_optimizer(Optimizer(name=name), Small()).param_groups
        assert (group["momentum"], group["nesterov"]) == (0.9, is_nesterov)


def test_a_backbone_of_one_stage_has_no_layer_decay():
    with pytest.raises(UserError) as caught:
        build_optimizer(Optimizer(layer_decay=0.5), OneStage())
    assert str(caught.value) == "optimizer.layer_decay=0.5: the backbone is one stage; set it to null"


def test_an_own_backbone_without_timm_s_attributes_has_groups():
    groups = build_parameter_groups(build("simple_cnn"), Optimizer(lr=0.1, layer_decay=0.5, weight_decay=0.1))
    rates = list(dict.fromkeys(group["lr"] for group in groups))
    assert len(rates) > 2
    assert rates[:-1] == sorted(rates[:-1])


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"name": "adamm"}, "optimizer.name=adamm: not one of torch's or timm's; did you mean adam?"),
        ({"name": "adahessian"}, "optimizer.name=adahessian: needs second derivatives, which training does not "
         "compute; choose another, for example adamw"),
        ({"name": "kron"}, "optimizer.name=kron: compiles its steps for minutes and needs over 100 GB for a 3x3 "
         "convolution; choose another, for example adamw"),
        *[({"name": name}, f"optimizer.name={name}: compiles its steps") for name in ("kronc", "kronw")],
        ({"name": "fusedadam"}, "optimizer.name=fusedadam: cannot be built here ("),
        ({"kwargs": {"lr": 1}}, "optimizer.kwargs.lr: has a setting of its own; set optimizer.lr"),
        ({"kwargs": {"weight_decay": 1}}, "optimizer.kwargs.weight_decay: has a setting of its own; set "
         "optimizer.weight_decay"),
        ({"name": "nesterov", "kwargs": {"momentum": 0.0}}, "optimizer.name=nesterov: Nesterov momentum requires a "),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_one_line(settings, line):
    with pytest.raises(UserError) as caught:
        build_optimizer(Optimizer(**settings), Small())
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize("name", ["adam", "momentum", "lamb", "lion"])
def test_kwargs_reach_the_optimizer_and_a_wrong_one_is_named(name):
    key, value = ("momentum", 0.7) if name == "momentum" else ("betas", (0.8, 0.9))
    optimizer = build_optimizer(Optimizer(name=name, kwargs={key: value}), Small())
    assert optimizer.param_groups[0][key] == value
    with pytest.raises(UserError) as caught:
        build_optimizer(Optimizer(name=name, kwargs={"gamma": 1}), Small())
    assert str(caught.value).startswith(f"optimizer.kwargs: {name} has no gamma (it has ")


@pytest.mark.parametrize(
    ("name", "kwargs", "line"),
    [
        ("adam", {"amsgrad": "yes"}, "amsgrad=yes: must be true or false; the default is False"),
        ("adam", {"eps": math.inf}, "eps=inf: must be a finite number"),
        ("adam", {"betas": 0.9}, "betas=0.9: must be a list; the default is (0.9, 0.999)"),
        ("adamw", {"betas": ["a", 0.9]}, "betas=a: must be a finite number"),
        ("momentum", {"momentum": math.nan}, "momentum=nan: must be a finite number"),
        ("sgd", {"momentum": "high"}, "momentum=high: must be a number; the default is 0.0"),
        ("lion", {"betas": [0.9, math.nan]}, "betas=nan: must be a finite number"),
    ],
)  # fmt: skip
def test_a_keyword_of_another_type_or_without_end_is_refused(name, kwargs, line):
    with pytest.raises(UserError) as caught:
        build_optimizer(Optimizer(name=name, kwargs=kwargs), Small())
    assert str(caught.value) == f"optimizer.kwargs.{line}"


def test_whole_numbers_and_what_is_none_by_default_are_right():
    kwargs = {"momentum": 0.9, "dampening": 0, "nesterov": True, "foreach": False}
    group = build_optimizer(Optimizer(name="sgd", kwargs=kwargs), Small()).param_groups[0]
    assert {key: group[key] for key in kwargs} == kwargs
    with pytest.raises(UserError, match="optimizer.name=adam: .*differentiable.*; check optimizer.kwargs"):
        build_optimizer(Optimizer(kwargs={"differentiable": True}), Small())
    with pytest.raises(UserError, match="optimizer.name=adam: .*; check optimizer.kwargs"):
        build_optimizer(Optimizer(kwargs={"betas": [0.9]}), Small())

"""Averages against hand-computed recurrences and means; BatchNorm's statistics against those of the whole data."""

import copy

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from src.config.load import load_config
from src.config.settings import Train
from src.errors import UserError
from src.model.network import build_network
from src.training.averaging import AVERAGES, build_average, compute_mean_weights, refresh_batchnorm


class Norm(nn.BatchNorm2d):
    """A network of one BatchNorm."""

    def forward(self, image):
        return super().forward(image)


def build(average, network, **kwargs):
    return build_average(Train(average=average, average_kwargs=kwargs, epochs=3), network)


def fill(network, value):
    with torch.no_grad():
        network[0].weight.fill_(value)
        network[1].running_mean.fill_(value)
        network[1].num_batches_tracked.fill_(int(value))


def test_ema_follows_its_recurrence_with_a_rising_decay():
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    ema = build("ema", network, decay=0.5)
    expected = 0.0
    for step, value in enumerate([1.0, 2.0, 3.0, 5.0, 4.0]):
        fill(network, value)
        ema.after_step(network)
        decay = min(0.5, 1 - (1 + step) ** (-2 / 3))  # 0 at the first step, which copies
        expected = decay * expected + (1 - decay) * value
    assert decay == 0.5
    torch.testing.assert_close(ema.module[0].weight.item(), expected)
    torch.testing.assert_close(ema.module[1].running_mean.item(), expected)
    assert ema.module[1].num_batches_tracked.item() == 4  # the newest: a count has no mean


def test_ema_is_timm_s_and_resumes_bit_for_bit():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    ema, timms = build("ema", network, decay=0.9), ModelEmaV3(network, decay=0.9, use_warmup=True)

    def step(average):
        with torch.no_grad():
            for tensor in network.parameters():
                tensor.add_(torch.randn_like(tensor))
        average.after_step(network)

    for number in range(1, 4):
        step(ema)
        timms.update(network, number)
    resumed = build("ema", copy.deepcopy(network), decay=0.9)
    resumed.load_state_dict(copy.deepcopy(ema.state_dict()))
    for number in range(4, 40):
        step(ema)
        resumed.after_step(network)
        timms.update(network, number)
    for one in (resumed.module, timms.module):
        for name, tensor in ema.module.state_dict().items():
            assert torch.equal(tensor, one.state_dict()[name]), name


def test_ema_moves_no_random_number_and_leaves_the_network_alone():
    network = nn.Linear(2, 2)
    before, weight = torch.get_rng_state(), network.weight.clone()
    ema = build("ema", network)
    ema.after_step(network)
    ema.module.weight.data.zero_()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(network.weight, weight)


@pytest.mark.parametrize(
    ("average", "kwargs", "line"),
    [
        ("ema", {"decay": 1.0}, "train.average_kwargs.decay=1.0: must be from 0 to 0.99999"),
        ("ema", {"decay": -0.1}, "train.average_kwargs.decay=-0.1: must be from 0 to 0.99999"),
        ("swa", {"epochs": 4}, "train.average_kwargs.epochs=4: must be from 1 to 3"),
        ("soup", {"epochs": 0}, "train.average_kwargs.epochs=0: must be from 1 to 3"),
    ],
)
def test_kwargs_outside_their_range_are_refused(average, kwargs, line):
    with pytest.raises(UserError) as caught:
        build(average, nn.Linear(1, 1), **kwargs)
    assert str(caught.value) == line


@pytest.mark.parametrize("average", AVERAGES)
def test_unknown_kwargs_are_refused_by_name(average):
    with pytest.raises(UserError, match=r"^train\.average_kwargs: .* has no decy"):
        build(average, nn.Linear(1, 1), decy=0.9)


def test_soup_keeps_as_many_epochs_as_it_averages_and_no_other_average_does():
    assert build("soup", nn.Linear(1, 1), epochs=2).num_best == 2
    assert [build(one, nn.Linear(1, 1)).num_best for one in ("none", "ema", "swa")] == [0, 0, 0]


@pytest.mark.parametrize("pool", ["avg", "gem"])  # whose power learns, inside the backbone
def test_ema_of_a_frozen_backbone_is_that_of_the_whole_network(pool):
    words = ["model.backbone=resnet10t", "model.kwargs={}", "image_size=32", "model.freeze=head_only", "train.views=0"]
    config = load_config([*words, "model.pretrained=true", f"model.pool={pool}"])
    network = build_network(config, 2, load_pretrained=False)
    ema, whole = build("ema", network, decay=0.5), ModelEmaV3(network, decay=0.5, use_warmup=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    averaged = {id(tensor) for tensor in ema._ema.module.parameters()}
    assert len(averaged) == len(list((network if pool == "gem" else network.head).parameters()))
    for step in range(1, 5):
        network(image=torch.randn(2, 1, 32, 32)).sum().backward()
        optimizer.step()
        ema.after_step(network)
        whole.update(network, step)
    for name, tensor in whole.module.state_dict().items():
        torch.testing.assert_close(ema.module.state_dict()[name], tensor, msg=name)
    again = build("ema", network, decay=0.5)
    again.load_state_dict(copy.deepcopy(ema.state_dict()))
    for one in (ema, again):
        one.after_step(network)
    assert all(one.equal(other) for one, other in zip(again.module.parameters(), ema.module.parameters(), strict=True))


def test_mean_weights_keep_counters_whole():
    states = [
        {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(5)},
        {"w": torch.tensor([3.0, 6.0]), "n": torch.tensor(7)},
    ]
    mean = compute_mean_weights(states)
    assert mean["w"].tolist() == [2.0, 4.0]
    assert mean["n"].item() == 5


def test_refreshed_statistics_are_those_of_the_batches():
    network = Norm(2)
    network.running_mean.fill_(9.0)
    images = [torch.randn(4, 2, 3, 3) + 1, torch.randn(4, 2, 3, 3) - 5]
    network.eval()
    refresh_batchnorm(network, [{"image": one} for one in images])
    torch.testing.assert_close(network.running_mean, torch.cat(images).mean((0, 2, 3)))
    assert network.momentum == 0.1
    assert not network.training


@pytest.mark.parametrize("freeze_batchnorm", ["false", "true"])
def test_frozen_statistics_are_not_refreshed(freeze_batchnorm, monkeypatch):
    torch.manual_seed(0)
    words = ["model.backbone=resnet10t", "model.kwargs={}", "image_size=32", "competition.channels=3"]
    network = build_network(load_config(words), 2)
    network.freeze_batchnorm = freeze_batchnorm == "true"
    for parameter in network.backbone.layer1.parameters():
        parameter.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items() if "running" in name}
    refresh_batchnorm(network, [{"image": torch.randn(4, 3, 32, 32)}])
    moved = {name for name, tensor in network.state_dict().items() if name in before and not tensor.equal(before[name])}
    assert not any("layer1" in name for name in moved)
    assert bool(moved) is not (freeze_batchnorm == "true")

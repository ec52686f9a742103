"""Averages against hand-computed recurrences and means; BatchNorm's statistics against those of the whole data."""

import pytest
import torch
from torch import nn

from src.config.settings import Model
from src.model.network import build_network
from src.training.averaging import build_ema, build_swa, mean_weights, refresh_batchnorm


def test_ema_follows_its_recurrence_with_a_rising_decay():
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    ema = build_ema(network, decay=0.3)
    with torch.no_grad():
        network[0].weight.fill_(1.0)
    ema.update_parameters(network)  # the first update copies
    expected = 1.0
    for update, value in enumerate([2.0, 3.0, 5.0], start=1):
        with torch.no_grad():
            network[0].weight.fill_(value)
            network[1].running_mean.fill_(value)
        ema.update_parameters(network)
        decay = min(0.3, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(ema.module[0].weight.item(), expected)
    assert 4.0 < ema.module[1].running_mean.item() < 5.0


def test_swa_is_the_mean_of_its_checkpoints():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    swa, checkpoints = build_swa(network), []
    for _ in range(4):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.randn_like(parameter))
        swa.update_parameters(network)
        checkpoints.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
    for name, parameter in swa.module.named_parameters():
        torch.testing.assert_close(parameter, torch.stack([one[name] for one in checkpoints]).mean(dim=0))


def test_mean_weights_keeps_counters_whole():
    states = [
        {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(5)},
        {"w": torch.tensor([3.0, 6.0]), "n": torch.tensor(7)},
    ]
    mean = mean_weights(states)
    assert mean["w"].tolist() == [2.0, 4.0]
    assert mean["n"].item() == 5


def test_refreshed_statistics_are_those_of_the_batches():
    network = nn.Sequential(nn.BatchNorm2d(2))
    network[0].running_mean.fill_(9.0)
    batches = [torch.randn(4, 2, 3, 3) + 1, torch.randn(4, 2, 3, 3) - 5]
    network.eval()
    refresh_batchnorm(network, batches)
    torch.testing.assert_close(network[0].running_mean, torch.cat(batches).mean((0, 2, 3)))
    assert network[0].momentum == 0.1
    assert not network.training


@pytest.mark.parametrize("freeze_batchnorm", [False, True])
def test_frozen_statistics_are_not_refreshed(freeze_batchnorm):
    torch.manual_seed(0)
    settings = Model(backbone="resnet10t", pretrained=False, freeze_batchnorm=freeze_batchnorm)
    network = build_network(settings, 2, 3, (32, 32))
    for parameter in network.backbone.layer1.parameters():
        parameter.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items() if "running" in name}
    refresh_batchnorm(network, [torch.randn(4, 3, 32, 32)])
    moved = {name for name, tensor in network.state_dict().items() if name in before and not tensor.equal(before[name])}
    assert not any("layer1" in name for name in moved)
    assert bool(moved) is not freeze_batchnorm

"""The moving average against a hand-computed recurrence."""

import torch
from torch import nn

from src.training.averaging import build_ema


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

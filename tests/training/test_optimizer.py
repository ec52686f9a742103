"""Parameter groups by rate and decay; optimizers by name reach a known minimum."""

import pytest
import torch
from torch import nn

from src.config import Optimizer
from src.errors import UserError
from src.training.optimizer import build_optimizer, parameter_groups


class TwoParts(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.head = nn.Linear(2, 1)


def test_groups_split_by_rate_and_decay():
    groups = parameter_groups(TwoParts(), Optimizer(lr=0.1, head_lr_factor=5.0, weight_decay=0.3))
    found = [(g["name"], g["lr"], g["weight_decay"], [tuple(p.shape) for p in g["params"]]) for g in groups]
    assert found == [
        ("backbone", 0.1, 0.3, [(2, 1, 3, 3)]),
        ("backbone", 0.1, 0.0, [(2,), (2,), (2,)]),
        ("head", 0.5, 0.3, [(1, 2)]),
        ("head", 0.5, 0.0, [(1,)]),
    ]


def test_adam_is_torchs_adam_step_for_step():
    torch.manual_seed(0)
    ours, theirs = TwoParts(), TwoParts()
    theirs.load_state_dict(ours.state_dict())
    one = build_optimizer(Optimizer(lr=0.01, head_lr_factor=1.0), ours)
    other = torch.optim.Adam(theirs.parameters(), lr=0.01)
    images = torch.randn(4, 1, 5, 5)
    for network, optimizer in ((ours, one), (theirs, other)):
        for _ in range(3):
            loss = network.head(network.backbone(images).mean((2, 3))).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "nadam", "radam", "rmsprop", "lion", "lamb"])
def test_optimizers_find_the_minimum_of_a_convex_problem(name):
    torch.manual_seed(0)
    network = TwoParts()
    optimizer = build_optimizer(Optimizer(name=name, lr=0.05, head_lr_factor=1.0), network)
    wanted = torch.tensor([[0.3, -0.2]])
    for step in range(400):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 400)
        optimizer.zero_grad()
        (network.head.weight - wanted).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(network.head.weight.detach(), wanted, atol=0.02, rtol=0)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UserError) as caught:
        build_optimizer(Optimizer(name="adamm"), TwoParts())
    assert str(caught.value).startswith("optimizer.name=adamm: not an optimizer of torch or timm; did you mean adam")

"""Configs, networks and refusals of this room's tests."""

import pytest
import torch

from src.config.settings import Competition, Config, Model, Train
from src.errors import UserError
from src.model.network import build_network


def make_config(backbone="resnet10t", image_size=(64, 64), channels=3, task="binary", normalize="backbone", **model):
    """Random weights unless `pretrained` is given; features are not kept, so that a pooling may learn."""
    model = Model(backbone=backbone, **{"pretrained": False, **model})
    competition, train = Competition(channels=channels, task=task), Train(views=0)
    return Config(model=model, image_size=image_size, normalize=normalize, competition=competition, train=train)


def build(backbone="resnet10t", num_targets=2, network=None, **given):
    torch.manual_seed(0)
    return build_network(make_config(backbone, **given), num_targets, **(network or {}))


def refusal(**given):
    """The one line that a network is refused with."""
    with pytest.raises(UserError) as error:
        build(**given)
    assert "\n" not in str(error.value)
    return str(error.value)

"""First weights: their variance is the one that the papers ask for."""

import pytest
import torch
from torch import nn

from src.config.settings import settings
from src.model.initialization import INITIALIZERS, initialize_layer

VARIANCE = {  # of a layer with 400 inputs and 600 outputs
    "zero": 0.0,
    "normal": 0.01**2,
    "xavier_uniform": 2 / 1000,
    "xavier_normal": 2 / 1000,
    "he_uniform": 2 / 400,
    "he_normal": 2 / 400,
    "lecun_normal": 1 / 400,
}


def test_names_are_the_settings():
    assert set(INITIALIZERS) == set(settings()["model.head_init"].metadata["choices"])


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
    for module in (nn.Linear(8, 8), nn.BatchNorm2d(8)):
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        initialize_layer(module, "default" if isinstance(module, nn.Linear) else "zero")
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, before[name])

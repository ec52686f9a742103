"""A BatchNorm that the convolution before it does: the same numbers and gradients, and plain layers where it learns."""

import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from src.model.fuse_batchnorm import fold_batchnorms

SHAPE = (3, 64, 64)


@pytest.fixture(autouse=True)
def double_precision():
    """So that no rounding takes an activation over the edge of a ReLU, which would change a gradient."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def build(name):
    torch.manual_seed(0)
    backbone = timm.create_model(name, num_classes=0)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return backbone.eval()


def run(network, images):
    """The output, and the gradient of its squares for each parameter by name."""
    network.zero_grad()
    output = network(images)
    output.square().mean().backward()
    return output.detach(), {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize(
    ("name", "num_folded"),
    [("resnet10t", 14), ("mobilenetv2_100", 52), ("tf_efficientnet_b0", 49), ("dla34", 37), ("densenet121", 59),
     ("regnety_002", 44), ("convnext_atto", 0)],
)  # fmt: skip
def test_outputs_and_gradients_are_those_of_the_plain_layers(name, num_folded):
    plain, folded = build(name), build(name)
    assert fold_batchnorms(folded, SHAPE) == num_folded
    assert list(folded.state_dict()) == list(plain.state_dict())
    images = torch.randn(2, *SHAPE)
    output, gradients = run(plain, images)
    found, found_gradients = run(folded, images)
    torch.testing.assert_close(found, output, rtol=1e-8, atol=1e-8 * output.abs().max().item())
    for key, gradient in gradients.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found_gradients[key], gradient, rtol=1e-6, atol=1e-8 * scale + 1e-12, msg=key)


def test_where_statistics_are_learned_the_layers_are_what_they_were():
    plain, folded = build("resnet10t"), build("resnet10t")
    fold_batchnorms(folded, SHAPE)
    images = torch.randn(4, *SHAPE)
    output, _ = run(plain.train(), images)
    found, _ = run(folded.train(), images)
    assert torch.equal(found, output)
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, dict(folded.named_buffers())[name])


def test_a_copy_folds_its_own_batchnorm():
    folded = build("resnet10t")
    fold_batchnorms(folded, SHAPE)
    images = torch.randn(2, *SHAPE)
    before = folded(images)
    other = copy.deepcopy(folded)
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.weight)
    assert torch.equal(folded(images), before)
    assert not torch.allclose(other(images), before)


class Branching(nn.Module):
    """The convolution's output goes past its BatchNorm, too."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = Conv2dSame(3, 4, 3, stride=2), BatchNormAct2d(4)
        nn.init.constant_(self.norm.running_mean, 0.5)

    def forward(self, images):
        images = self.conv(images)
        return (self.norm(images) + images).mean((2, 3))


def test_a_backbone_that_would_say_something_else_is_left_alone():
    network = Branching().eval()
    images = torch.randn(2, *SHAPE)
    before = network(images)
    assert fold_batchnorms(network, SHAPE) == 0
    assert torch.equal(network(images), before)
    assert (type(network.conv), type(network.norm)) == (Conv2dSame, BatchNormAct2d)

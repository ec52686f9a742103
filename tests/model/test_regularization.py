"""BatchNorm's numbers reach every layer; dropout of channels at its rate, in training only, in copies too."""

import copy

import pytest
import torch
from torch import nn

from src.config.settings import Model
from src.errors import UserError
from src.model.network import build_network
from src.model.regularization import add_dropout2d


def build(backbone="resnet10t", **given):
    torch.manual_seed(0)
    return build_network(Model(backbone=backbone, pretrained=False, **given), 2, 3, (32, 32))


def test_batchnorm_momentum_is_the_share_of_the_batch():
    network = build(batchnorm_momentum=0.25, batchnorm_eps=0.01)
    norms = [one for one in network.modules() if isinstance(one, nn.BatchNorm2d)]
    assert {(one.momentum, one.eps) for one in norms} == {(0.25, 0.01)}
    first, seen = network.backbone.bn1, []
    first.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    network.train()(torch.randn(4, 3, 32, 32))
    torch.testing.assert_close(first.running_mean, 0.25 * seen[0].mean((0, 2, 3)))
    assert {one.momentum for one in build().modules() if isinstance(one, nn.BatchNorm2d)} == {0.1}


def test_a_backbone_without_batchnorm_is_refused():
    with pytest.raises(UserError) as caught:
        build("convnext_atto", batchnorm_eps=0.01)
    assert str(caught.value) == "model.batchnorm_eps=0.01: the backbone has no BatchNorm; set it to null"


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
    torch.testing.assert_close(
        output, (kept / 0.7)[:, :, None, None].expand_as(output)
    )  # once: not behind the last stage
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.02)
    assert torch.equal(stages.eval()(images), images)


def test_a_copy_in_evaluation_does_not_ask_the_original():
    network = build(dropout2d_rate=0.5).train()
    average = copy.deepcopy(network).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(average(images), average(images))
    assert not torch.equal(network(images), network(images))


def test_frozen_stages_drop_nothing():
    torch.manual_seed(0)
    network = build(dropout2d_rate=0.5)
    for parameter in network.backbone.parameters():
        parameter.requires_grad_(False)
    images = torch.randn(2, 3, 32, 32)
    network.train()
    assert torch.equal(network(images), network(images))


def test_a_stem_without_parameters_of_its_own_drops_nothing_when_frozen():
    network = build("resnet18", dropout2d_rate=0.9)
    for name, parameter in network.backbone.named_parameters():
        parameter.requires_grad_(name.startswith("layer4"))
    seen = []
    network.backbone.layer1.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    images = torch.randn(2, 3, 32, 32)
    network.train()(images)
    network.eval()(images)
    assert torch.equal(seen[0], seen[1])


def test_dropout2d_needs_feature_maps():
    with pytest.raises(UserError) as caught:
        build("test_vit", dropout2d_rate=0.2)
    assert str(caught.value) == "model.dropout2d_rate=0.2: test_vit has no feature maps; set model.drop_rate"

"""What is frozen does not move, and what is opened does."""

import pytest
import timm
import torch
from torch import nn

from src.model.freezing import describe_parameters, list_stages, open_stages
from tests.model import building

STAGES = {  # of resnet10t, by hand: modules whose parameters each stage holds
    "conv1": ("backbone.conv1.", "backbone.bn1."),
    "layer1.0": ("backbone.layer1.",),
    "layer2.0": ("backbone.layer2.",),
    "layer3.0": ("backbone.layer3.",),
    "layer4.0": ("backbone.layer4.",),
    "head": ("head.",),
}


def build(backbone="resnet10t", **given):
    return building.build(backbone, image_size=(32, 32), **{"freeze_batchnorm": False, **given})


def learning(network):
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def of_last(network, count):
    """Names of the head's and the last `count` stages' parameters, from the hand-written list."""
    prefixes = tuple(one for stage in list(STAGES.values())[-1 - count :] for one in stage)
    return {name for name, _ in network.named_parameters() if name.startswith(prefixes)}


def take_step(network):
    network.train()
    optimizer = torch.optim.SGD([one for one in network.parameters() if one.requires_grad], lr=0.5)
    network(image=torch.randn(4, 3, 32, 32)).square().mean().backward()
    optimizer.step()


def snapshot(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def moved(network, before):
    return {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}


def test_stages_are_the_hand_listed_ones():
    network = build()
    stages = list_stages(network)
    assert [name for name, _ in stages] == list(STAGES)
    for name, parameters in stages:
        assert set(parameters) == {one for one, _ in network.named_parameters() if one.startswith(STAGES[name])}


@pytest.mark.parametrize(
    "backbone",
    ["mobilenetv2_100", "convnext_atto", "test_vit", "test_nfnet", "poolformer_s12", "resnet10t", "simple_cnn"],
)
def test_every_parameter_is_in_one_stage(backbone):
    network = build(backbone, pool="gem") if backbone == "resnet10t" else build(backbone)
    listed = [name for _, names in list_stages(network) for name in names]
    assert sorted(listed) == sorted(name for name, _ in network.named_parameters())


def test_a_backbone_that_timm_does_not_group_has_stages_by_modules():
    backbone = timm.create_model("rdnet_tiny", num_classes=0)
    network = nn.ModuleDict({"backbone": backbone, "head": nn.Linear(1, 1)})
    stages = list_stages(network)
    assert [name for name, _ in stages][:2] == ["stem.0", "dense_stages.0.0"]
    assert sorted(one for _, names in stages for one in names) == sorted(name for name, _ in network.named_parameters())


def test_a_last_norm_is_no_stage_of_its_own():
    stages = list_stages(build("convnext_atto"))
    assert "backbone.head.norm.weight" in stages[-2][1]
    assert "backbone.stages.3.blocks.0.conv_dw.weight" in stages[-2][1]


@pytest.mark.parametrize(("method", "count"), [("none", 5), ("head_only", 0), ("0", 0), ("1", 1), ("2", 2), ("5", 5)])
def test_each_method_opens_exactly(method, count):
    network = build(freeze=method)
    assert learning(network) == of_last(network, count)


def test_gradual_opens_one_stage_an_epoch():
    network = build(freeze="gradual")
    for epoch, changes in enumerate([False, True, True, True, True, True, False]):
        assert open_stages(network, epoch) is changes
        assert learning(network) == of_last(network, min(epoch, 5))


def test_gradual_waits_between_stages():
    network = build(freeze="gradual", gradual_epochs=3)
    counts = []
    for epoch in range(8):
        open_stages(network, epoch)
        counts.append(next(count for count in range(6) if learning(network) == of_last(network, count)))
    assert counts == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(("method", "count"), [("none", 5), ("2", 2)])
def test_the_head_learns_alone_first(method, count):
    network = build(freeze=method, head_first_epochs=2)
    for epoch, (changes, opened) in enumerate([(False, 0), (False, 0), (True, count), (False, count)]):
        assert open_stages(network, epoch) is changes
        assert learning(network) == of_last(network, opened)


def test_a_restart_opens_all_that_was_open():
    network = build(freeze="gradual")
    assert open_stages(network, 3)
    assert learning(network) == of_last(network, 3)
    assert not open_stages(build(freeze="head_only"), 3)


def test_what_opens_while_training_trains():
    network = build(freeze="gradual").train()
    assert not network.backbone.layer4.training
    open_stages(network, 1)
    assert network.backbone.layer4.training
    assert not network.backbone.layer3.training


def test_head_only_leaves_every_backbone_tensor_as_it_is():
    network = build(freeze="head_only", kwargs={"drop_path_rate": 0.5})
    before = snapshot(network)
    take_step(network)
    network.eval()
    take_step(network)  # the second train() freezes as the first did
    assert moved(network, before) == {"head.last.weight", "head.last.bias"}


def test_the_last_stage_alone_moves():
    network = build(freeze="1")
    before = snapshot(network)
    take_step(network)
    changed = moved(network, before)
    assert changed
    assert all(name.startswith(("backbone.layer4", "head")) for name in changed)
    assert any("running_mean" in name for name in changed)


@pytest.mark.parametrize("backbone", ["resnet10t", "mobilenetv2_100"])  # torch's BatchNorm, timm's BatchNormAct2d
def test_frozen_batchnorm_keeps_statistics_but_learns_scale(backbone):
    network = build(backbone, freeze_batchnorm=True)
    before = snapshot(network)
    take_step(network)
    changed = moved(network, before)
    assert not any("running" in name or "num_batches" in name for name in changed)
    assert any(name.startswith("backbone.bn1.") for name in changed)
    norms = [one for one in network.backbone.modules() if isinstance(one, nn.BatchNorm2d)]
    assert norms
    assert not any(one.training for one in norms)


def test_batchnorm_moves_unless_frozen():
    network = build()
    before = snapshot(network)
    take_step(network)
    assert "backbone.bn1.running_mean" in moved(network, before)


def test_batchnorm_rests_by_itself_only_when_pretrained():
    assert not build(freeze_batchnorm=None).freeze_batchnorm


def test_too_many_stages():
    message = "model.freeze=6: the backbone has 5 stages; set a smaller number or none"
    assert building.refusal(freeze="6", image_size=(32, 32)) == message


def test_describe_parameters():
    network = build(freeze="1")
    table = describe_parameters(network)
    assert list(table.columns) == ["stage", "parameters", "trainable"]
    assert list(table["stage"]) == [*STAGES, "all"]
    total = table.iloc[-1]
    assert total["parameters"] == sum(one.numel() for one in network.parameters())
    assert total["trainable"] == sum(one.numel() for one in network.parameters() if one.requires_grad)
    assert list(table["trainable"][:4]) == [0, 0, 0, 0]

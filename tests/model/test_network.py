"""The network against timm's own models, and normalisation against formulas."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from src.config.settings import Optimizer
from src.model.freezing import list_stages
from src.model.network import Network, build_network
from src.training.optimizer import build_parameter_groups
from tests.model.building import build, make_config

FAMILIES = ["resnet10t", "mobilenetv2_100", "mobilenetv3_small_050", "convnext_atto", "test_efficientnet", "test_vit"]


def normalize(network, pixels):
    return network.normalize({"image": pixels})["image"]


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_timms_model(name):
    torch.manual_seed(1)
    model = timm.create_model(name, num_classes=5, **({"img_size": 64} if "vit" in name else {})).eval()
    network = build(name, num_targets=5).eval()
    network.backbone.load_state_dict(model.state_dict(), strict=False)
    classifier = model.get_classifier()
    network.head.last.load_state_dict(classifier.state_dict())
    images = torch.randn(2, 3, 64, 64).double()  # in which the order of sums does not matter
    torch.testing.assert_close(network.double()(image=images), model.double()(images))


def test_features_go_to_the_head_alone():
    network, images = build().eval(), torch.randn(2, 3, 64, 64)
    features = network.extract_features(images)
    assert features.shape == (2, 512)
    assert torch.equal(network(features=features), network(image=images))


class WithSite(Network):
    """A fork's: the site where an image was taken beside its features."""

    def extract_features(self, image, site):
        return torch.cat([self.backbone(image), site[:, None].float()], dim=1)


def test_further_inputs_reach_the_features_by_name():
    network = WithSite(nn.Flatten(), nn.Identity(), [0.0], [255.0])
    inputs = {"image": torch.full((2, 2, 2, 1), 51, dtype=torch.uint8), "site": torch.tensor([3, 4])}
    normalized = network.normalize(inputs)
    assert normalized["site"] is inputs["site"]
    torch.testing.assert_close(network(**normalized), torch.tensor([[0.2] * 4 + [3.0], [0.2] * 4 + [4.0]]))


def test_every_image_is_normalised_and_other_inputs_stay():
    network = build()
    pixels = {name: torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8) for name, size in
              {"image": (8, 6), "other": (4, 4)}.items()}  # fmt: skip
    features = torch.randn(2, 512)
    normalized = network.normalize({**pixels, "features": features})
    assert list(normalized) == ["image", "other", "features"]
    assert normalized["features"] is features
    for name, images in pixels.items():
        assert torch.equal(normalized[name], normalize(network, images))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_normalize_by_the_backbones_statistics(channels):
    network = build(channels=channels)
    pixels = torch.randint(0, 256, (2, 8, 6, channels), dtype=torch.uint8)
    mean, std = torch.tensor(network.backbone.pretrained_cfg["mean"]), torch.tensor([0.229, 0.224, 0.225])
    if channels == 1:
        mean, std = mean.mean(), std.mean()
    elif channels == 5:
        mean, std = mean[[0, 1, 2, 0, 1]], std[[0, 1, 2, 0, 1]]
    normalized = normalize(network, pixels)
    expected = ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(normalized, expected, atol=1e-5, rtol=1e-5)
    assert normalized.dtype == torch.float32
    assert normalized.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("is_last", [True, False])
def test_activations_are_in_the_memory_format_that_is_asked_for(channels, is_last):
    network = build(channels=channels).place("cpu", is_last)
    convs = [one for one in network.backbone.modules() if isinstance(one, torch.nn.Conv2d)]
    strides, given = [], {"image": torch.randint(0, 256, (2, 96, 64, channels), dtype=torch.uint8)}
    for conv in convs:
        conv.register_forward_hook(lambda module, inputs, output: strides.append(output.stride(1)))
    network(**network.normalize(given))
    assert len(strides) == len(convs) > 3
    assert {stride == 1 for stride in strides} == {is_last}


def test_normalize_by_given_statistics_or_none():
    pixels = torch.rand(2, 4, 4, 3) * 7
    kept = pixels.clone()
    network = build(normalize="dataset", network={"pixel_stats": ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])})
    expected = (pixels - torch.tensor([1.0, 2.0, 3.0])) / torch.tensor([4.0, 5.0, 6.0])
    torch.testing.assert_close(normalize(network, pixels), expected.permute(0, 3, 1, 2))
    assert torch.equal(pixels, kept)  # several networks read one batch
    torch.testing.assert_close(normalize(build(normalize="none"), pixels), (pixels / 255).permute(0, 3, 1, 2))


def test_normalize_center_takes_the_mean_alone():
    network = build(normalize="center", network={"pixel_stats": ([10.0, 20.0, 30.0], [1.0, 2.0, 3.0])})
    image = torch.tensor([10.0, 20.0, 285.0]).expand(1, 4, 4, 3)
    torch.testing.assert_close(normalize(network, image)[0, :, 0, 0], torch.tensor([0.0, 0.0, 1.0]))


def test_normalize_by_the_users_numbers_of_pixels_from_0_to_1():
    network = build(normalize={"mean": [0.0, 0.5, 1.0], "std": [1.0, 0.5, 0.25]})
    image = torch.tensor([51, 255, 0], dtype=torch.uint8).expand(1, 4, 4, 3)
    torch.testing.assert_close(normalize(network, image)[0, :, 0, 0], torch.tensor([0.2, 1.0, -4.0]))


def test_statistics_travel_with_the_weights():
    trained = build(normalize="dataset", network={"pixel_stats": ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])})
    loaded = build(network={"load_pretrained": False})
    loaded.load_state_dict(trained.state_dict())
    assert loaded.pixel_mean.flatten().tolist() == [1.0, 2.0, 3.0]
    assert loaded.pixel_std.flatten().tolist() == [4.0, 5.0, 6.0]


def test_normalize_refuses_other_channels():
    with pytest.raises(AssertionError):
        normalize(build(channels=3), torch.zeros(1, 4, 4, 1, dtype=torch.uint8))


def test_networks_that_normalise_alike_have_equal_pixel_stats():
    one, two = (build(image_size=(32, 32)) for _ in range(2))
    other = build(image_size=(32, 32), normalize="none")
    assert one.pixel_stats == two.pixel_stats != other.pixel_stats
    assert other.pixel_stats == ((0.0,) * 3, (255.0,) * 3)


def test_regression_is_standardised_in_training_and_in_the_targets_units_otherwise():
    scale = {"target_scale": ([1000.0, -5.0], [20.0, 0.5])}
    network = build(task="regression", network=scale)
    features = torch.randn(3, 512)
    standardised = network(features=features)
    values = network.eval()(features=features)
    torch.testing.assert_close(values, standardised * torch.tensor([20.0, 0.5]) + torch.tensor([1000.0, -5.0]))
    again = build(task="regression").eval()
    again.load_state_dict(network.state_dict())  # the scale travels with the weights
    assert torch.equal(again(features=features), values)
    assert not any("target" in name for name in build().state_dict())


def test_the_head_is_given_the_features_of_the_metadata_after_those_of_the_image():
    plain, network = build(), build(drop_rate=0.5, network={"num_metadata": 4, "num_auxiliary": 3}).eval()
    images, metadata = torch.randn(2, 3, 64, 64), torch.randn(2, 4)
    first, last = network.metadata[0], network.metadata[3]
    hidden = nn.functional.silu(metadata @ first.weight.T + first.bias)
    joined = nn.functional.silu(hidden @ last.weight.T + last.bias)
    features = torch.cat([network.extract_features(images), joined], dim=1)
    expected = features @ network.head.last.weight.T + network.head.last.bias
    torch.testing.assert_close(network(image=images, metadata=metadata), expected)
    assert network.backbone.state_dict().keys() == plain.backbone.state_dict().keys()
    assert not any("metadata" in name for name in plain.state_dict())
    network.train()
    assert network(image=images, metadata=metadata).shape == (2, 2 + 3)
    assert not torch.equal(network.metadata(metadata), network.metadata(metadata))  # model.drop_rate


def test_what_learns_of_metadata_learns_with_the_head():
    network = build(pretrained=True, freeze="head_only", network={"num_metadata": 4, "load_pretrained": False})
    _, names = list_stages(network)[-1]
    assert {name for name in names if name.startswith("metadata.")} == {
        f"metadata.{place}.{kind}" for place in (0, 3) for kind in ("weight", "bias")
    }
    assert all(one.requires_grad for one in network.metadata.parameters())
    assert not any(one.requires_grad for one in network.backbone.parameters())
    groups = build_parameter_groups(network, Optimizer(lr=0.5, head_lr_factor=2, weight_decay=0.1))
    rates = {id(one): (group["lr"], group["weight_decay"]) for group in groups for one in group["params"]}
    assert rates[id(network.metadata[0].weight)] == rates[id(network.head.last.weight)] == (1, 0.1)
    assert rates[id(network.metadata[0].bias)] == (1, 0)


def test_auxiliary_columns_are_there_in_training_alone_and_leave_the_first_weights_alone():
    plain, network = build(), build(network={"num_auxiliary": 3})
    features = torch.randn(2, 512)
    assert network(features=features).shape == (2, 5)
    assert torch.equal(network(features=features)[:, :2], plain(features=features))
    assert torch.equal(network.eval()(features=features), plain.eval()(features=features))


def build_several(images_as, **given):
    config = make_config("resnet10t", **given)
    competition = replace(config.competition, images="{id}/*", num_images=3, images_as=images_as)
    torch.manual_seed(0)
    return build_network(replace(config, competition=competition), 2).eval()


def weigh(features, attention):
    """Ilse et al., 2018, eq. 8 and 9, one image at a time."""
    scores = [attention.score(attention.hidden(one).tanh() * attention.gate(one).sigmoid()) for one in features]
    weights = torch.stack(scores).exp() / torch.stack(scores).exp().sum(dim=0)
    return (weights * torch.stack(features)).sum(dim=0)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("images_as", ["mean", "max", "attention"])
def test_each_image_of_a_row_goes_through_the_backbone_and_features_are_joined(images_as, channels_last):
    network = build_several(images_as).place("cpu", channels_last)
    raw = torch.randint(0, 256, (2, 64, 64, 9), dtype=torch.uint8)
    inputs = network.normalize({"image": raw})
    alone = [
        network.normalize({"image": raw[..., [*range(first, first + 3)] * 3]})["image"][:, :3] for first in (0, 3, 6)
    ]
    features = [network.backbone(one) for one in alone]
    if images_as == "attention":
        joined = weigh(features, network.join.join)
    else:
        joined = sum(features) / 3 if images_as == "mean" else torch.maximum(torch.maximum(*features[:2]), features[2])
    torch.testing.assert_close(network(**inputs), network.head(joined), rtol=1e-4, atol=1e-4)
    kept = network.extract_features(**inputs)
    assert kept.shape == (2, 3 * 512)
    assert torch.equal(network(features=kept), network(**inputs))


def test_several_images_as_channels_are_one_image_of_the_backbone():
    network = build_several("channels", channels=1)
    assert network.backbone.conv1[0].in_channels == 3
    assert network.pixel_stats[0] == pytest.approx([255 * (0.485 + 0.456 + 0.406) / 3] * 3)
    assert network.join is None


def test_statistics_of_one_image_are_those_of_each():
    config = make_config(normalize="dataset", channels=1)
    competition = replace(config.competition, images="{id}/*", num_images=2, images_as="max")
    network = build_network(replace(config, competition=competition), 1, pixel_stats=([10.0], [2.0]))
    assert network.pixel_stats == ((10.0, 10.0), (2.0, 2.0))

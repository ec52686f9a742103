"""Grad-CAM against CAM by hand, against the gradient where each architecture splits, and on a network of one corner."""

import numpy as np
import pytest
import torch
from torch import nn

from src.analysis.saliency import compute_saliency
from src.config.settings import Competition, Config, Model
from src.model.network import build_network
from tests.model.building import build

SWIN = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
SMALL_BLOCKS = {"kwargs": {"depth": 2, "embed_dim": 24, "num_heads": 2}}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def make_images(size, channels=3, count=3):
    generator = torch.Generator().manual_seed(1)
    return {"image": torch.randint(0, 256, (count, *size, channels), dtype=torch.uint8, generator=generator)}


def scale(maps):
    """ReLU, then each map divided by its largest value."""
    maps = maps.clamp(min=0)
    return (maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-30)).detach().numpy()


@pytest.mark.parametrize(
    ("backbone", "size", "more"),
    [
        ("resnet10t", (128, 160), {}),
        ("test_efficientnet", (128, 128), {}),
        ("swin_tiny_patch4_window7_224", (128, 160), {"kwargs": SWIN}),
        ("vit_tiny_patch16_224", (64, 96), SMALL_BLOCKS | {"pool": "avg"}),
        ("simple_cnn", (64, 96), {"kwargs": {"widths": [4, 8]}}),
    ],
)
def test_behind_an_average_and_a_linear_head_it_is_cam(backbone, size, more):
    """Zhou et al., 2016, arXiv:1512.04150, eq. 2: the maps, weighed by the head's weights of the column."""
    network, inputs = build(backbone, num_targets=4, image_size=size, **more).eval(), make_images(size)
    columns = torch.tensor([0, 3, 1])
    images = network.normalize(inputs)["image"]
    inside = network.backbone
    maps = inside.blocks(images) if backbone == "simple_cnn" else inside.forward_features(images)
    if backbone.startswith("swin"):
        maps = maps.permute(0, 3, 1, 2)
    if backbone.startswith("vit"):
        height, width = size[0] // 16, size[1] // 16
        maps = maps[:, 1:].transpose(1, 2).reshape(3, -1, height, width)
    expected = scale((network.head.last.weight[columns][:, :, None, None] * maps).sum(dim=1))
    found = compute_saliency(network, inputs, columns)
    assert (found.dtype, found.shape) == (np.float32, expected.shape)
    assert found == pytest.approx(expected, abs=1e-4)
    assert expected.any()
    opposite = scale(-(network.head.last.weight[0][:, None, None] * maps).sum(dim=1))
    assert compute_saliency(network, inputs, 0, signs=-1) == pytest.approx(opposite, abs=1e-4)
    assert all(one.grad is None for one in network.parameters())


@pytest.mark.parametrize("pool", ["auto", "avg", "max", "avgmax", "gem"])
@pytest.mark.parametrize("backbone", ["test_convnext", "resnet10t"])
def test_each_pooling_and_a_head_with_hidden_layers(backbone, pool):
    model = {"pool": pool, "head_kwargs": {"widths": [8], "activation": "silu"}}
    network, inputs = build(backbone, num_targets=2, image_size=(128, 128), **model).eval(), make_images((128, 128))
    maps = network.backbone.forward_features(network.normalize(inputs)["image"]).detach().requires_grad_()
    logits = network.head(network.backbone.forward_head(maps, pre_logits=True))
    [gradient] = torch.autograd.grad(logits[:, 1].sum(), maps)
    expected = scale((gradient.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1))
    assert compute_saliency(network, inputs, 1) == pytest.approx(expected, abs=1e-4)


def test_behind_a_class_token_the_last_attention_is_looked_into():
    network, inputs = build("vit_tiny_patch16_224", image_size=(64, 96), **SMALL_BLOCKS).eval(), make_images((64, 96))
    inside = network.backbone
    tokens = inside.patch_embed(network.normalize(inputs)["image"])
    tokens = inside.blocks[0](inside.norm_pre(inside.patch_drop(inside._pos_embed(tokens))))
    block, normed = inside.blocks[1], inside.blocks[1].norm1(tokens).detach().requires_grad_()
    after = tokens.detach() + block.ls1(block.attn(normed))
    after = after + block.ls2(block.mlp(block.norm2(after)))
    logits = network.head(inside.forward_head(inside.norm(after), pre_logits=True))
    [gradient] = torch.autograd.grad(logits[:, 0].sum(), normed)
    maps = (gradient[:, 1:].mean(dim=1, keepdim=True) * normed[:, 1:]).sum(dim=2).reshape(3, 4, 6)
    assert compute_saliency(network, inputs, 0) == pytest.approx(scale(maps), abs=1e-4)


def test_a_network_that_looks_at_one_corner_has_its_map_there():
    """Of one channel; frozen, and within inference_mode, where tools predict."""
    network = build("simple_cnn", num_targets=1, image_size=(32, 48), channels=1, kwargs={"widths": [1, 1]}).eval()
    for one in network.parameters():
        nn.init.ones_(one.requires_grad_(False))
    inputs = {"image": torch.zeros(2, 32, 48, 1, dtype=torch.uint8)}
    inputs["image"][0, :8, -8:] = 255
    inputs["image"][1, -8:, :8] = 255
    network.pixel_mean.zero_()
    with torch.inference_mode():
        maps = compute_saliency(network, inputs, 0)
    assert maps.shape == (2, 8, 12)
    assert (maps[0, :2, -2:].max(), maps[1, -2:, :2].max()) == (1, 1)
    maps[0, :3, -3:] = maps[1, -3:, :3] = 0  # a convolution sees one place further
    assert maps.max() < 0.05


def test_of_small_images_a_finer_map_is_taken():
    network = build("resnet10t", image_size=(64, 64)).eval()
    assert compute_saliency(network, make_images((64, 64)), 0).shape == (3, 4, 4)
    network = build("simple_cnn", image_size=(16, 16), kwargs={"widths": [4, 4, 4, 4]}).eval()
    assert compute_saliency(network, make_images((16, 16)), 1).shape == (3, 4, 4)


def test_no_map_no_saliency():
    network = build("resnet10t", image_size=(64, 64)).eval()
    network.backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 512))
    assert compute_saliency(network, make_images((64, 64)), 0) is None


def test_a_row_of_two_images_has_no_map():
    """It would be that of the last one, and lie over the first."""
    network = build("simple_cnn", image_size=(32, 32), kwargs={"widths": [4, 4]}).eval()
    network.extract_features = lambda left, right: network.backbone(left) - network.backbone(right)
    inputs = {"left": make_images((32, 32))["image"], "right": make_images((32, 32))["image"].flip(1)}
    assert compute_saliency(network, inputs, 0) is None


def test_a_head_of_zeros_has_maps_of_zeros():
    network = build("resnet10t", image_size=(128, 128), head_kwargs={"init": "zero"}).eval()
    assert not compute_saliency(network, make_images((128, 128)), 0).any()


def test_the_map_of_several_images_is_a_grid_of_theirs():
    competition = Competition(images="{id}/*", num_images=3, images_as="max")
    config = Config(image_size=(64, 64), competition=competition, model=Model(backbone="resnet10t", pretrained=False))
    network = build_network(config, 1).eval()
    inputs = {"image": torch.randint(0, 256, (2, 64, 64, 9), dtype=torch.uint8)}
    found = compute_saliency(network, inputs, 0, num_images=3)
    assert found.shape == (2, 8, 8)  # 2 x 2 images of 4 x 4 places
    assert not found[:, 4:, 4:].any()  # of three the fourth is blank
    assert found.max(axis=(1, 2)).tolist() == [1, 1]

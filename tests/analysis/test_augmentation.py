"""What augmentation does to predictions: a network that tells left from right, and flips that are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from src.analysis.augmentation import compute_augmentation_effect
from src.config.load import load_config
from src.model.network import Network

FLIPS = "augment.transforms=[{VerticalFlip: {p: 1}}, {HorizontalFlip: {p: 0.5}}]"


class Halves(nn.Module):
    """The brightness of the left and of the right half."""

    def forward(self, image):
        half = image.shape[3] // 2
        return torch.stack([image[..., :half].mean(dim=(1, 2, 3)), image[..., half:].mean(dim=(1, 2, 3))], dim=1)


@pytest.fixture
def make_case(make_table):
    """Return a config, a network with these logits of (left, right), and a table of images with a bright half."""

    def make(task, weight, *words):
        images = np.zeros((40, 8, 8, 3), np.uint8)
        for row, image in enumerate(images):
            image[:, 4 * (row % 2) : 4 * (row % 2) + 4] = 255
        targets = np.tile(np.eye(2, dtype=np.float32), (20, 1))[:, : len(weight)]
        table = replace(make_table(images, targets), task=task)
        config = load_config([f"competition.task={task}", "image_size=8", "competition.channels=3", *words])
        head = nn.Linear(2, len(weight), bias=False)
        head.weight.data = torch.tensor(weight)
        scale = (torch.zeros(1), torch.ones(1)) if task == "regression" else None
        return config, Network(Halves(), head, [0.0] * 3, [255.0] * 3, target_scale=scale).eval(), table

    return make


def test_flips_of_a_class_are_counted_and_the_transform_is_found(make_case):
    config, network, table = make_case("multiclass", [[9.0, 0.0], [0.0, 9.0]], FLIPS)
    found = compute_augmentation_effect(config, network, table)
    assert found.class_names == ["t0", "t1"]
    assert found.matrix.sum() == found.num_images == 40
    assert found.matrix.sum(axis=1).tolist() == [20, 20]
    assert found.num_flips == found.matrix[0, 1] + found.matrix[1, 0]
    assert 10 <= found.num_flips <= 30
    assert found.flip_rate == found.num_flips / 40
    sure = 1 / (1 + np.exp(-9))
    assert found.change == pytest.approx(found.flip_rate * (2 * sure - 1), abs=1e-5)
    assert found.transforms["transform"].tolist() == ["HorizontalFlip", "VerticalFlip"]
    assert found.transforms[["images", "flips"]].to_numpy().tolist() == [[32, 32], [32, 0]]
    assert found.transforms["change"].tolist() == pytest.approx([2 * sure - 1, 0], abs=1e-5)
    flips = found.list_flips()
    assert sorted(zip(flips["plain"], flips["augmented"], strict=True)) == [("t0", "t1"), ("t1", "t0")]
    assert flips["images"].tolist() == sorted([found.matrix[0, 1], found.matrix[1, 0]], reverse=True)


def test_a_binary_label_has_two_classes(make_case):
    config, network, table = make_case("binary", [[-9.0, 9.0]], "augment.transforms=[{HorizontalFlip: {p: 1}}]")
    found = compute_augmentation_effect(config, network, table, max_images=30)
    assert found.class_names == ["t0=0", "t0=1"]
    assert (found.num_images, found.num_flips) == (30, 30)
    assert found.matrix[0, 0] == found.matrix[1, 1] == 0


def test_of_several_labels_none_is_a_class_too(make_case):
    config, network, table = make_case("multilabel", [[9.0, -9.0], [-9.0, -9.0]], FLIPS.replace("0.5", "1"))
    found = compute_augmentation_effect(config, network, table)
    assert found.class_names == ["t0", "t1", "none"]
    assert found.matrix.tolist() == [[0, 0, 20], [0, 0, 0], [20, 0, 0]]
    assert found.num_flips == 40


def test_numbers_change_in_deviations_of_the_targets(make_case):
    config, network, table = make_case("regression", [[4.0, 0.0]], FLIPS.replace("0.5", "1"))
    found = compute_augmentation_effect(config, network, table)
    assert (found.matrix, found.num_flips) == (None, 0)
    assert found.change == pytest.approx(4 / 0.5)  # the targets are 0 and 1


def test_within_no_time_one_batch_is_seen_and_no_transform_alone(make_case):
    config, network, table = make_case("multiclass", [[9.0, 0.0], [0.0, 9.0]], FLIPS)
    found = compute_augmentation_effect(config, network, table, seconds=0)
    assert (found.num_images, len(found.transforms)) == (32, 0)
    assert list(found.transforms) == ["transform", "images", "flips", "change"]


def test_of_consistency_views_the_first_is_seen_and_without_augmentation_nothing_changes(make_case):
    words = ["augment.preset=none", "augment.flips=none", "augment.kwargs.augmix=3", "augment.augmix_consistency=12"]
    config, network, table = make_case("multiclass", [[9.0, 0.0], [0.0, 9.0]], *words)
    found = compute_augmentation_effect(config, network, table)
    assert (found.num_flips, found.change) == (0, 0)
    assert found.transforms["transform"].tolist() == ["AugMix severity=3"]

"""Mixed images and targets against sums and pixel counts by hand."""

import numpy as np
import pytest
import torch

from src.config import Mix
from src.data.mixing import Mixer, cutmix, draw_box, mixup

IMAGES = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 2, 8, 6).contiguous()
TARGETS = torch.eye(3)
PARTNERS = torch.tensor([1, 2, 0])


def test_mixup_weighs_image_and_target_alike():
    images, targets = mixup(IMAGES, TARGETS, PARTNERS, 0.75)
    torch.testing.assert_close(images[:, 0, 0, 0], torch.tensor([0.25, 1.25, 1.5]))
    torch.testing.assert_close(targets, torch.tensor([[0.75, 0.25, 0], [0, 0.75, 0.25], [0.25, 0, 0.75]]))


def test_cutmix_target_is_the_area_counted_in_pixels():
    images, targets = cutmix(IMAGES, TARGETS, PARTNERS, (2, 5, 0, 4))
    assert (images[0] == 1).sum().item() == 2 * 12
    assert targets[0].tolist() == pytest.approx([1 - 12 / 48, 12 / 48, 0])
    assert (IMAGES[0] == 0).all(), "the inputs stay as they were"


def test_boxes_have_the_drawn_area_until_the_border_clips_them():
    rng = np.random.default_rng(0)
    boxes = np.array([draw_box(100, 80, 0.75, rng) for _ in range(500)])
    top, bottom, left, right = boxes.T
    assert (top >= 0).all() and (bottom <= 100).all() and (left >= 0).all() and (right <= 80).all()
    assert (bottom - top).max() == pytest.approx(50, abs=1)
    assert (right - left).max() == pytest.approx(40, abs=1)
    assert ((bottom - top) * (right - left) / 8000).min() < 0.2


def test_probability_and_switch_are_kept():
    images, targets = torch.rand(4, 1, 16, 16), torch.eye(4)

    def share_changed(**settings):
        mixer, rng = Mixer(Mix(**settings)), np.random.default_rng(0)
        return np.mean([not torch.equal(mixer(images, targets, rng)[0], images) for _ in range(300)])

    assert share_changed(prob=0.0) == 0
    assert share_changed(prob=0.4, cutmix_alpha=0.0, mixup_alpha=1.0) == pytest.approx(0.4, abs=0.1)

    def is_cutmix(mixer, rng):
        mixed, _ = mixer(images, targets, rng)
        return torch.isin(mixed, images).all().item()

    mixer, rng = Mixer(Mix(prob=1.0, mixup_alpha=1.0, switch_prob=0.3)), np.random.default_rng(1)
    assert np.mean([is_cutmix(mixer, rng) for _ in range(300)]) == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("settings", [{"mixup_alpha": 0.0}, {"cutmix_alpha": 0.0}])
def test_any_batch_size_and_bf16(size, settings):
    mixer = Mixer(Mix(prob=1.0, **{"mixup_alpha": 0.4, **settings}))
    images = torch.rand(size, 3, 9, 7, dtype=torch.bfloat16)
    mixed, targets = mixer(images, torch.ones(size, 2), np.random.default_rng(0))
    assert mixed.shape == images.shape
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(targets, torch.ones(size, 2))


def test_the_same_draws_give_the_same_batch():
    mixer, images = Mixer(Mix(prob=0.7)), torch.rand(6, 3, 8, 8)
    one, two = (mixer(images, torch.eye(6), np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])

"""Mixup and CutMix against values computed by hand and pixels that are counted."""

from functools import partial

import numpy as np
import pytest
import torch

from src.config.settings import Mix
from src.data.mixup_cutmix import cutmix, draw_box, mix_batch, mixup
from src.errors import UserError


def batch(size, height=10, width=14, dtype=torch.float32):
    """Image i is i + 1 everywhere, its target is row i of the unit matrix."""
    images = torch.arange(1.0, size + 1)[:, None, None, None].expand(size, 3, height, width)
    return {"image": images.to(dtype).contiguous()}, torch.eye(size)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def test_mixup_blends_images_and_targets_alike():
    inputs, targets = batch(3)
    mixed, mixed_targets = mixup(inputs, targets, torch.tensor([2, 0, 1]), 0.75)
    assert mixed["image"][:, 0, 0, 0].tolist() == [0.75 * 1 + 0.25 * 3, 0.75 * 2 + 0.25 * 1, 0.75 * 3 + 0.25 * 2]
    assert mixed_targets.tolist() == [[0.75, 0, 0.25], [0.25, 0.75, 0], [0, 0.25, 0.75]]


def test_cutmix_pastes_the_box_and_shares_the_target_by_area():
    inputs, targets = batch(2)
    mixed, mixed_targets = cutmix(inputs, targets, torch.tensor([1, 0]), (2, 4, 7, 14))
    pasted = torch.zeros(10, 14, dtype=torch.bool)
    pasted[2:7, 4:14] = True
    assert torch.equal(mixed["image"][0, 1], torch.where(pasted, 2.0, 1.0))
    assert torch.equal(mixed["image"][1, 2], torch.where(pasted, 1.0, 2.0))
    torch.testing.assert_close(mixed_targets, torch.tensor([[90 / 140, 50 / 140], [50 / 140, 90 / 140]]))


@pytest.mark.parametrize("method", ["mixup", "cutmix"])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_mixed_target_is_the_share_of_each_image(method, size):
    alphas = {"mixup_alpha": 1.0, "cutmix_alpha": 0.0} if method == "mixup" else {"mixup_alpha": 0.0}
    mixer = partial(mix_batch, Mix(prob=1.0, **alphas))
    inputs, targets = batch(size)
    for seed in range(30):
        mixed, mixed_targets = mixer(inputs, targets, generator(seed))
        mixed = mixed["image"]
        torch.testing.assert_close(mixed_targets.sum(dim=1), torch.ones(size))
        mean = mixed.mean(dim=(1, 2, 3))
        torch.testing.assert_close(mean, mixed_targets @ torch.arange(1.0, size + 1))
        if method == "cutmix":
            for row in range(size):
                share = [(mixed[row, 0] == value + 1).float().mean().item() for value in range(size)]
                torch.testing.assert_close(mixed_targets[row], torch.tensor(share))
    assert torch.equal(inputs["image"], batch(size)[0]["image"])
    assert torch.equal(targets, torch.eye(size))


def test_boxes_are_clipped_and_unclipped_ones_have_the_area_asked_for():
    rng = np.random.default_rng(0)
    boxes = np.array([draw_box(40, 60, 0.75, rng) for _ in range(500)])
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 40
    assert boxes[:, 3].max() <= 60
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert height.max() == 20  # sqrt(1 - 0.75) of each side
    assert width.max() == 30
    whole = (height == 20) & (width == 30)
    assert 0.15 < whole.mean() < 0.4  # a quarter of the centres is that far from each border
    assert (height * width < 600).any()
    assert draw_box(40, 60, 1.0, rng)[0] <= 40
    top, left, bottom, right = draw_box(40, 60, 1.0, rng)
    assert (bottom - top) * (right - left) == 0


def test_share_of_batches_and_of_cutmix():
    inputs, targets = {"image": torch.rand(4, 1, 16, 16)}, torch.eye(4)
    kinds = {"none": 0, "mixup": 0, "cutmix": 0}
    mixer = partial(mix_batch, Mix(prob=0.6, mixup_alpha=1.0, cutmix_alpha=1.0, switch_prob=0.25))
    for seed in range(600):
        mixed, _ = mixer(inputs, targets, generator(seed))
        is_pasted = torch.isin(mixed["image"], inputs["image"]).all()
        kinds["none" if mixed is inputs else "cutmix" if is_pasted else "mixup"] += 1
    assert kinds["none"] == pytest.approx(240, abs=40)
    assert kinds["cutmix"] == pytest.approx(90, abs=30)
    off = partial(mix_batch, Mix(prob=0.0))
    assert off(inputs, targets, generator(0))[0] is inputs


def test_lambda_is_beta_distributed():
    inputs, targets = batch(2, 1, 1)
    shares = []
    for seed in range(400):
        _, mixed = mix_batch(Mix(prob=1.0, mixup_alpha=0.2, cutmix_alpha=0.0), inputs, targets, generator(seed))
        shares.append(mixed[0, 0].item())
    shares = torch.tensor(shares)
    mixed = shares[shares < 1]  # the partner of half the images is the image itself
    assert mixed.var().item() == pytest.approx(0.25 / 1.4, abs=0.03)  # 1 / (4 (2 alpha + 1))


def test_the_generator_decides_and_moves_on():
    inputs, targets = {"image": torch.rand(5, 3, 8, 8)}, torch.rand(5, 2)
    mixer = partial(mix_batch, Mix(prob=1.0))
    one, two = generator(7), generator(7)
    first, second = mixer(inputs, targets, one), mixer(inputs, targets, one)
    assert torch.equal(first[0]["image"], mixer(inputs, targets, two)[0]["image"])
    assert torch.equal(second[1], mixer(inputs, targets, two)[1])
    assert not torch.equal(first[0]["image"], second[0]["image"])


@pytest.mark.parametrize("alphas", [{"mixup_alpha": 0.0}, {"cutmix_alpha": 0.0}])
def test_bfloat16_and_channels_last_stay(alphas):
    inputs, targets = batch(4, dtype=torch.bfloat16)
    inputs = {"image": inputs["image"].to(memory_format=torch.channels_last)}
    mixed, mixed_targets = mix_batch(Mix(prob=1.0, **alphas), inputs, targets, generator(1))
    mixed = mixed["image"]
    assert mixed.dtype == torch.bfloat16
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        mixed.float().mean(dim=(1, 2, 3)), mixed_targets @ torch.arange(1.0, 5), rtol=0.02, atol=0
    )


@pytest.mark.parametrize("alphas", [{"mixup_alpha": 0.0}, {"cutmix_alpha": 0.0}])
def test_all_inputs_are_mixed_with_the_same_partner_and_share(alphas):
    """Two images, of which the second has other channels, and two kinds of metadata."""
    inputs, targets = batch(5)
    values = torch.arange(1.0, 6)
    inputs |= {"lateral": inputs["image"][:, :1] * 10, "age": values.clone(), "site": torch.eye(5)}
    kept = {name: one.clone() for name, one in inputs.items()}
    mixer, alone = partial(mix_batch, Mix(prob=1.0, **alphas)), partial(mix_batch, Mix(prob=1.0, **alphas))
    for seed in range(20):
        mixed, mixed_targets = mixer(inputs, targets, generator(seed))
        assert mixed.keys() == inputs.keys()
        torch.testing.assert_close(mixed["lateral"][:, 0], mixed["image"][:, 0] * 10)
        torch.testing.assert_close(mixed["site"], mixed_targets)
        torch.testing.assert_close(mixed["age"], mixed_targets @ values)
        just_image, same_targets = alone({"image": inputs["image"]}, targets, generator(seed))
        assert torch.equal(just_image["image"], mixed["image"])  # other inputs draw no random number
        assert torch.equal(same_targets, mixed_targets)
    assert all(torch.equal(inputs[name], one) for name, one in kept.items())


@pytest.mark.parametrize("prob", [0.5, 1.0])
def test_an_integer_input_is_refused_before_anything_is_drawn(prob):
    inputs, targets = batch(3)
    state = generator(0)
    with pytest.raises(UserError) as caught:
        mix_batch(Mix(prob=prob), inputs | {"site": torch.arange(3)}, targets, state)
    assert str(caught.value) == (
        f"mix.prob={prob}: input 'site' is int64 and cannot be mixed; set mix.prob=0, or make it float in "
        "ImageDataset.read"
    )
    assert torch.equal(state.get_state(), generator(0).get_state())

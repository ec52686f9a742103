"""Cutout and Random Erasing: shape, area, noise and share, by hand."""

import random

import numpy as np
import pytest

from src.data.erasing import Cutout, RandomErasing


def apply(transform, image, seed):
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    return transform(image=image)["image"]


@pytest.mark.parametrize("side", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_cutout_is_one_black_square_cut_off_at_the_border(side, dtype):
    image = (np.ones((40, 60, 2)) * 100).astype(dtype)
    image[0, 0] = black = 0 if dtype == np.uint8 else -7
    length, cut = round(side * 40), 0
    for seed in range(100):
        found = apply(Cutout(side, p=1), image, seed)
        rows, columns = np.nonzero((found == black)[..., 0] & (image != black)[..., 0])
        if len(rows) == 0:
            continue
        tall, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
        is_inside = min(rows.min(), columns.min()) > 0 and rows.max() < 39 and columns.max() < 59
        assert (tall, wide) == (length, length) if is_inside else max(tall, wide) <= length
        assert len(rows) in (tall * wide, tall * wide - 1)  # a rectangle, perhaps over the corner that was black
        assert (found[..., 0] == found[..., 1]).all()
        cut += not is_inside
    assert cut > 0


@pytest.mark.parametrize("shape", [(64, 64, 3), (50, 100, 1), (100, 50, 6)])
def test_erasing_is_a_rectangle_of_the_papers_area_and_aspect(shape):
    image = np.full(shape, -5, np.float32)
    image[0, 0] = 3
    areas, aspects = [], []
    for seed in range(300):
        found = apply(RandomErasing(p=1), image, seed)
        rows, columns = np.nonzero((found != image).any(axis=2))
        tall, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) >= tall * wide - 1
        assert -5 <= found.min() < found.max() <= 3
        areas.append(tall * wide / (shape[0] * shape[1]))
        aspects.append(tall / wide)
    assert 0.018 < min(areas) < 0.05
    assert 0.35 < max(areas) < 0.41
    assert 0.25 < min(aspects) < 0.45
    assert 2.2 < max(aspects) < 3.6


def test_erasing_fills_with_noise_of_the_whole_range():
    found = apply(RandomErasing(p=1), np.full((200, 200, 3), 100, np.uint8), 0)
    noise = found[(found != 100).any(axis=2)]
    assert (noise.min(), noise.max()) == (0, 255)
    assert noise.mean() == pytest.approx(127.5, abs=3)
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.1  # each channel its own


@pytest.mark.parametrize("transform", [Cutout(0.3, p=0.4), RandomErasing(p=0.4)], ids=lambda one: type(one).__name__)
def test_a_share_of_the_images_is_hit(transform):
    grey = np.full((32, 32, 1), 100, np.uint8)
    assert 60 < sum((apply(transform, grey, seed) != 100).any() for seed in range(200)) < 100

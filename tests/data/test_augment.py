"""Pipelines: one seed, one picture; sizes and types kept; what albumentations would ignore is refused."""

import pickle

import cv2
import numpy as np
import pytest

from src.config import Augment
from src.data.augment import build_augmentation, build_resize
from src.errors import UserError

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize("preset", ["none", "light", "medium", "heavy"])
@pytest.mark.parametrize("flips", ["none", "hflip", "vflip", "hvflip", "d4"])
def test_one_seed_gives_one_picture_whatever_came_before(preset, flips):
    augment = build_augmentation(Augment(preset=preset, flips=flips), (32, 24), 3, True)
    first = [augment(IMAGE, seed) for seed in range(20)]
    copy = pickle.loads(pickle.dumps(augment))
    again = [copy(IMAGE, seed) for seed in reversed(range(20))][::-1]
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert {image.shape for image in first} == {(32, 24, 3)}
    assert {image.dtype for image in first} == {np.dtype(np.uint8)}
    assert len({image.tobytes() for image in first}) >= {"none": 1, "light": 10}.get(preset, 18)


def test_validation_is_a_plain_resize():
    resize = build_resize((20, 30))
    np.testing.assert_array_equal(resize(IMAGE, 0), cv2.resize(IMAGE, (30, 20), interpolation=cv2.INTER_AREA))
    np.testing.assert_array_equal(resize(IMAGE, 0), IMAGE.reshape(20, 2, 30, 2, 3).mean((1, 3)).round().astype(np.uint8))
    assert resize(IMAGE[..., :1], 0).shape == (20, 30, 1)
    assert build_resize((40, 60))(IMAGE, 0) is IMAGE


def test_flips_none_never_mirrors():
    ramp = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[None], 60, axis=0)[..., None].repeat(3, axis=2)
    augment = build_augmentation(Augment(preset="light", flips="none"), (60, 60), 3, True)
    mirrored = build_augmentation(Augment(preset="light", flips="hflip"), (60, 60), 3, True)
    rises = [augment(ramp, seed)[30, 40, 0] > augment(ramp, seed)[30, 20, 0] for seed in range(40)]
    assert all(rises)
    assert 8 < sum(mirrored(ramp, seed)[30, 40, 0] > mirrored(ramp, seed)[30, 20, 0] for seed in range(40)) < 32


@pytest.mark.parametrize("preset", ["light", "medium", "heavy"])
def test_arrays_keep_their_values_range_and_grey_its_one_channel(preset):
    array = np.random.default_rng(1).normal(500, 100, (32, 32, 6)).astype(np.float32)
    augment = build_augmentation(Augment(preset=preset, flips="d4"), (32, 32), 6, False)
    out = augment(array, 3)
    assert out.shape == (32, 32, 6)
    assert out.dtype == np.float32
    assert 400 < np.median(out) < 600
    grey = build_augmentation(Augment(preset=preset), (32, 32), 1, True)(IMAGE[..., :1], 5)
    assert grey.shape == (32, 32, 1)


def test_own_transforms_replace_the_preset():
    settings = Augment(transforms=[{"VerticalFlip": {"p": 1.0}}, {"OneOf": {"transforms": ["Transpose"], "p": 0.0}}])
    np.testing.assert_array_equal(build_augmentation(settings, (40, 60), 3, True)(IMAGE, 0), IMAGE[::-1])
    crop = build_augmentation(Augment(transforms=[{"CenterCrop": {"height": 20, "width": 30}}]), (20, 30), 3, True)
    np.testing.assert_array_equal(crop(IMAGE, 0), IMAGE[10:30, 15:45])


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ({"Rotate": {"limt": 3}}, "augment.transforms: Rotate: Argument(s) 'limt' are not valid for transform Rotate; "
         "see its arguments in albumentations' reference"),
        ({"CoarseDropout": {"max_holes": 3}}, "augment.transforms: CoarseDropout: Argument(s) 'max_holes' are not valid "
         "for transform CoarseDropout; see its arguments in albumentations' reference"),
        ("HorizontalFlop", "augment.transforms: HorizontalFlop is not a transform of albumentations; "
         "did you mean HorizontalFlip?"),
        ({"Rotate": {"p": 3}}, "augment.transforms: Rotate with ('p', 3): p Input should be less than or equal to 1 "
         "[type=less_than_equal, input_value=3, input_type=int]"),
        (3, "augment.transforms: 3 is not one transform; write {Rotate: {limit: 10, p: 0.5}}"),
    ],
)  # fmt: skip
def test_what_would_be_ignored_is_refused(transform, expected):
    with pytest.raises(UserError) as caught:
        build_augmentation(Augment(transforms=[transform]), (8, 8), 3, True)
    assert str(caught.value) == expected

"""Augmentation: decided by the seed alone, of one size and type, and wrong settings are refused in one line."""

import pickle
import random
from collections import Counter

import cv2
import numpy as np
import pytest

from src.config import Augment
from src.data.augment import build_augmentation, build_resize
from src.errors import UserError

RNG = np.random.default_rng(0)
IMAGE = cv2.resize(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8), (96, 72), interpolation=cv2.INTER_CUBIC)
FLIPS = ("none", "hflip", "vflip", "hvflip", "d4")
PRESETS = ("light", "medium", "heavy")


def build(transforms=None, size=(48, 48), channels=3, is_uint8=True, **settings):
    return build_augmentation(Augment(transforms=transforms, **settings), size, channels, is_uint8)


@pytest.mark.parametrize("flips", FLIPS)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_output_depends_on_image_and_seed_alone(preset, flips):
    augment = build(preset=preset, flips=flips)
    first = [augment(IMAGE, seed) for seed in range(40)]
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    copy = pickle.loads(pickle.dumps(augment))
    for seed in reversed(range(40)):
        assert np.array_equal(copy(IMAGE, seed), first[seed])
    assert {(image.shape, str(image.dtype)) for image in first} == {((48, 48, 3), "uint8")}
    assert len({image.tobytes() for image in first}) >= (20 if preset == "light" else 38)


def test_global_random_numbers_are_left_alone():
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    expected = np.random.random(), random.random()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    build(preset="heavy", flips="d4")(IMAGE, 5)
    assert (np.random.random(), random.random()) == expected  # noqa: NPY002


@pytest.mark.parametrize(("flips", "views"), [("hflip", 2), ("vflip", 2), ("hvflip", 4), ("d4", 8), ("none", 1)])
def test_flips_come_independently_and_equally_often(flips, views):
    square = RNG.integers(0, 256, (5, 5, 1), dtype=np.uint8)
    turned = [np.rot90(one, turns) for one in (square, square[:, ::-1]) for turns in range(4)]
    flips = {"hvflip": ["HorizontalFlip", "VerticalFlip"], "none": ["NoOp"], "d4": ["D4"]}.get(
        flips, [{"hflip": "HorizontalFlip", "vflip": "VerticalFlip"}.get(flips)]
    )
    augment = build(transforms=flips, size=(5, 5), channels=1)
    counts = Counter(augment(square, seed).tobytes() for seed in range(400))
    assert set(counts) <= {one.tobytes() for one in turned}
    assert len(counts) == views
    assert min(counts.values()) > 400 / views * 0.6


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("flips", "views"), [("hflip", "lr"), ("vflip", "ud"), ("hvflip", "lr ud both"), ("none", "")])
def test_flips_apply_in_every_preset(preset, flips, views):
    """A bright corner of the picture says which way it was mirrored."""
    corner = np.zeros((64, 64, 3), np.uint8)
    corner[4:30, 4:30] = 255
    seen = Counter()
    augment = build(preset=preset, flips=flips, size=(64, 64))
    for seed in range(80):
        halves = augment(corner, seed).astype(float)[8:56, 8:56].reshape(2, 24, 2, 24, 3).mean(axis=(1, 3, 4))
        seen[{0: "as is", 1: "lr", 2: "ud", 3: "both"}[int(halves.argmax())]] += 1
    # heavy may hide the corner or turn it away, but rarely
    assert {view for view, count in seen.items() if count > 3} == {"as is", *views.split()}


def test_none_is_the_plain_resize():
    augment, resize = build(preset="none", flips="d4"), build_resize((48, 48))
    assert all(np.array_equal(augment(IMAGE, seed), resize(IMAGE, 0)) for seed in range(5))


def test_resize_shrinks_by_area_and_enlarges_linearly():
    third = build_resize((24, 32))(IMAGE, 0)
    assert np.abs(third - IMAGE.reshape(24, 3, 32, 3, 3).mean(axis=(1, 3))).max() <= 0.51
    doubled = build_resize((144, 192))(IMAGE, 0)
    assert np.array_equal(doubled, cv2.resize(IMAGE, (192, 144), interpolation=cv2.INTER_LINEAR))
    assert build_resize((10, 20))(IMAGE[..., :1], 0).shape == (10, 20, 1)


@pytest.mark.parametrize("preset", ["none", *PRESETS])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_arrays_get_geometry_only(preset, channels):
    image = np.full((50, 70, channels), 1000.0, np.float32) + np.arange(channels, dtype=np.float32)
    augment = build(preset=preset, channels=channels, is_uint8=False, size=(24, 32), flips="hvflip")
    for seed in range(20):
        found = augment(image, seed)
        assert found.dtype == np.float32
        assert found.shape == (24, 32, channels)
        np.testing.assert_allclose(found, np.broadcast_to(1000.0 + np.arange(channels), found.shape), rtol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_grey_pictures(preset):
    augment = build(preset=preset, channels=1)
    assert {augment(IMAGE[..., :1], seed).shape for seed in range(30)} == {(48, 48, 1)}


def test_medium_changes_brightness_half_the_time_and_light_never():
    plain = np.full((48, 48, 3), 100, np.uint8)
    changed = [build(preset="medium")(plain, seed).std() + abs(build(preset="medium")(plain, seed).mean() - 100) > 0
               for seed in range(100)]  # fmt: skip
    assert 30 < sum(changed) < 70
    assert all((build(preset="light")(plain, seed) == 100).all() for seed in range(30))


def test_own_transforms_replace_preset_and_flips():
    augment = build([{"VerticalFlip": {"p": 1}}], preset="heavy", flips="d4", size=(72, 96))
    assert all(np.array_equal(augment(IMAGE, seed), IMAGE[::-1]) for seed in range(10))


def test_own_transforms_nest_and_know_opencvs_names():
    augment = build(
        [{"OneOf": {"transforms": ["HorizontalFlip", {"VerticalFlip": {"p": 0.5}}], "p": 1}},
         {"Affine": {"rotate": [0, 0], "border_mode": "BORDER_REFLECT_101"}}],
        size=(72, 96),
    )  # fmt: skip
    seen = Counter(augment(IMAGE, seed).tobytes() for seed in range(100))
    assert set(seen) == {IMAGE[::-1].tobytes(), IMAGE[:, ::-1].tobytes()}


def test_own_crops_see_the_picture_before_it_is_shrunk():
    augment = build([{"CenterCrop": {"height": 48, "width": 48}}])
    assert np.array_equal(augment(IMAGE, 0), IMAGE[12:60, 24:72])
    small = cv2.resize(IMAGE, (24, 18))  # is enlarged to cover 48x48, to 48x64
    assert np.array_equal(augment(small, 0), cv2.resize(small, (64, 48))[:, 8:56])


def test_own_transforms_that_end_in_another_size_are_resized():
    assert build([{"RandomScale": {"p": 1}}])(IMAGE, 0).shape == (48, 48, 3)
    assert build(["Transpose"], size=(40, 60))(IMAGE, 1).shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ("HorizontalFlop", "albumentations has no HorizontalFlop; did you mean HorizontalFlip?"),
        ({"Rotate": {"limt": 3}}, "Rotate has no limt (it has limit, interpolation, border_mode, rotate_method, "
         "crop_border, mask_interpolation, fill, fill_mask, p); did you mean limit?"),
        ({"CoarseDropout": {"max_holes": 3}}, "CoarseDropout has no max_holes (it has num_holes_range, "
         "hole_height_range, hole_width_range, fill, fill_mask, p)"),
        ({"GaussNoise": {"var_limit": 3}}, "GaussNoise has no var_limit (it has std_range, mean_range, per_channel, "
         "noise_scale_factor, p)"),
        ({"OneOf": {"transforms": [{"PadIfNeeded": {"value": 0}}]}}, "PadIfNeeded has no value (it has min_height, "
         "min_width, pad_height_divisor, pad_width_divisor, position, border_mode, fill, fill_mask, p)"),
        ({"Rotate": {"p": 2}}, "Rotate: p=2: Input should be less than or equal to 1"),
        ({"Rotate": {"limit": "x"}}, "Rotate: limit=x: Input should be a valid tuple"),
        ({"GaussNoise": {"std_range": [5, 6]}},
         "GaussNoise: std_range=[5, 6]: All values in (5.0, 6.0) must be >= 0 and <= 1"),
        ({"Crop": {"x_min": 5, "x_max": 2}}, "Crop: x_max must be greater than x_min"),
        ("RandomCrop", "RandomCrop: height: Field required"),
        ({"SomeOf": {"n": 2, "transforms": ["D4"]}},
         "SomeOf: `n` is greater than number of transforms. `n` will be set to 1."),
        ({"OneOf": {}}, "OneOf is empty; give it transforms: [...]"),
        (3, "cannot read 3; write for example [{Rotate: {limit: 10, p: 0.5}}]"),
        ({"Rotate": 3}, "cannot read {'Rotate': 3}; write for example [{Rotate: {limit: 10, p: 0.5}}]"),
        ("Normalize", "Normalize does not keep uint8 pixels of 3 channels; leave it out (pixels are normalised later, "
         "on the device)"),
        ({"RandomCrop": {"height": 50, "width": 50}}, "RandomCrop fails on uint8 (48, 48, 3): Crop size (height, "
         "width) exceeds image dimensions (height, width): (50, 50) vs (48, 48)"),
    ],
)  # fmt: skip
def test_wrong_transforms_are_refused(transform, message):
    with pytest.raises(UserError) as caught:
        build([transform])
    assert str(caught.value) == f"augment.transforms: {message}"


def test_a_transform_that_needs_colour_is_refused_for_grey():
    with pytest.raises(UserError, match=r"^augment.transforms: ChannelDropout fails on uint8 \(48, 48, 1\)"):
        build([{"OneOf": {"transforms": ["D4", "ChannelDropout"], "p": 0.1}}], channels=1)


def test_d4_needs_square_pictures():
    with pytest.raises(UserError, match=r"augment.flips=d4: needs square pictures, image_size is \[32, 48\]"):
        build(flips="d4", size=(32, 48))

"""Augmentation: decided by the seed alone, of one size and type, and wrong settings are refused in one line."""

import pickle
import random
from collections import Counter

import albumentations as A
import cv2
import numpy as np
import pytest

from src.config.settings import Augment
from src.data.transforms import Augmentation, build_augmentation, build_resize
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


def affine(rotate, shift, scale, p):
    shifts = {"x": (-shift, shift), "y": (-shift, shift)}
    return A.Affine(
        rotate=(-rotate, rotate), translate_percent=shifts, scale=scale, keep_ratio=True,
        border_mode=cv2.BORDER_REFLECT_101, p=p,
    )  # fmt: skip


def written_out(preset, flips, channels, is_uint8):
    """The presets as lists of transforms."""
    crop = A.RandomResizedCrop((48, 48), scale=(0.5, 1.0), ratio=(0.8, 1.25), area_for_downscale="image")
    transforms = {
        "light": [affine(7, 0.05, (0.9, 1.1), 0.7)],
        "medium": [affine(15, 0.08, (0.85, 1.2), 0.9)],
        "heavy": [crop, affine(30, 0.1, (0.8, 1.2), 0.7)],
    }[preset]
    transforms += {
        "none": [],
        "hflip": [A.HorizontalFlip(p=0.5)],
        "vflip": [A.VerticalFlip(p=0.5)],
        "hvflip": [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)],
        "d4": [A.D4(p=1)],
    }[flips]
    if is_uint8 and channels < 4 and preset == "medium":
        transforms += [A.RandomBrightnessContrast(0.2, 0.2, p=0.5)]
    if is_uint8 and channels < 4 and preset == "heavy":
        transforms += [
            A.RandomBrightnessContrast(0.3, 0.3, p=0.7),
            *([A.HueSaturationValue(10, 25, 15, p=0.5)] if channels == 3 else []),
            A.OneOf([A.GaussianBlur(sigma_limit=(0.5, 1.5)), A.GaussNoise(std_range=(0.02, 0.08))], p=0.3),
            A.CoarseDropout((1, 1), (0.2, 0.375), (0.2, 0.375), p=0.5),
        ]
    return Augmentation((48, 48), transforms, (60, 60) if preset == "heavy" else (48, 48))


@pytest.mark.parametrize("flips", FLIPS)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("channels", "is_uint8"), [(1, True), (3, True), (5, True), (3, False)])
def test_presets_are_what_is_written_out_here(preset, flips, channels, is_uint8):
    image = np.concatenate([IMAGE, IMAGE], axis=2)[..., :channels].astype(np.uint8 if is_uint8 else np.float32)
    found = build(preset=preset, flips=flips, channels=channels, is_uint8=is_uint8)
    expected = written_out(preset, flips, channels, is_uint8)
    assert found.source_size == expected.source_size
    assert all(np.array_equal(found(image, seed), expected(image, seed)) for seed in range(30))


KNOBS = {
    "crop": 0.3, "rotate": 40, "translate": 0.3, "scale": [0.5, 2], "brightness": 0.5, "colour": 0.5, "blur": 5,
    "noise": 0.3, "cutout": 0.5, "erasing": 0.5, "randaugment": 5, "augmix": 5,
}  # fmt: skip
NAMES = {
    "crop": "RandomResizedCrop", "rotate": "Affine", "translate": "Affine", "scale": "Affine",
    "brightness": "RandomBrightnessContrast", "colour": "HueSaturationValue", "blur": "OneOf GaussianBlur",
    "noise": "OneOf GaussNoise", "cutout": "Cutout", "erasing": "RandomErasing", "randaugment": "RandAugment",
    "augmix": "AugMix",
}  # fmt: skip
OFF = {"crop": 1, "rotate": 0, "translate": 0, "scale": [1, 1], "brightness": 0, "colour": 0, "blur": 0, "noise": 0,
       "cutout": 0}  # fmt: skip


def names(augment):
    return " ".join(line.split()[1] for line in augment.describe())


@pytest.mark.parametrize("knob", KNOBS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_knob_alone_acts_alone(knob, channels):
    if knob == "colour" and channels == 1:
        with pytest.raises(UserError) as caught:
            build(preset="none", channels=1, colour=0.5)
        assert str(caught.value) == "augment.colour=0.5: grey pictures have no colour; leave it out"
        return
    augment = build(preset="none", flips="hvflip", channels=channels, **{knob: KNOBS[knob]})
    copy = pickle.loads(pickle.dumps(augment))
    image, plain = IMAGE[..., :channels], build_resize((48, 48))(IMAGE[..., :channels], 0)
    found = [augment(image, seed) for seed in range(40)]
    assert {(one.shape, str(one.dtype)) for one in found} == {((48, 48, channels), "uint8")}
    assert all(np.array_equal(copy(image, seed), one) for seed, one in reversed(list(enumerate(found))))
    assert names(augment) == NAMES[knob]
    changed = {one.tobytes() for one in found if not np.array_equal(one, plain)}
    few = {"blur": 5, "noise": 5, "brightness": 10, "colour": 10, "cutout": 10, "erasing": 10}
    assert len(changed) >= few.get(knob, 25)


@pytest.mark.parametrize("preset", PRESETS)
def test_knobs_switch_parts_of_a_preset_off(preset):
    assert names(build(preset=preset, **OFF)) == "HorizontalFlip"
    assert build(preset=preset, **OFF).source_size == (48, 48)
    for knob in ("rotate", "translate", "scale"):
        assert "Affine" in names(build(preset=preset, **{knob: OFF[knob]}))  # the other two go on
    gone = {"crop": "RandomResizedCrop ", "brightness": " RandomBrightnessContrast", "colour": " HueSaturationValue",
            "blur": " GaussianBlur", "noise": " GaussNoise", "cutout": " CoarseDropout"}  # fmt: skip
    for knob, name in gone.items():
        assert names(build(preset=preset, **{knob: OFF[knob]})) == names(build(preset=preset)).replace(name, "")


def test_a_knob_takes_the_place_of_the_presets_value_alone():
    assert build(preset="heavy", rotate=5, blur=3, cutout=0.3).describe() == [
        "p=1.00 RandomResizedCrop size=(48,48) scale=(0.5,1) ratio=(0.8,1.25) area_for_downscale=image",
        "p=0.70 Affine scale=(0.8,1.2) translate_percent=(-0.1,0.1) rotate=(-5,5) shear=(0,0) keep_ratio=True "
        "border_mode=4",
        "p=0.50 HorizontalFlip",
        "p=0.70 RandomBrightnessContrast brightness_limit=(-0.3,0.3) contrast_limit=(-0.3,0.3)",
        "p=0.50 HueSaturationValue hue_shift_limit=(-10,10) sat_shift_limit=(-25,25) val_shift_limit=(-15,15)",
        "p=0.30 OneOf",
        "  p=0.50 GaussianBlur blur_limit=(0,0) sigma_limit=(1,3)",
        "  p=0.50 GaussNoise std_range=(0.02,0.08)",
        "p=0.50 Cutout side=0.3",
    ]
    assert build(preset="light", brightness=0.1, erasing=0.2, randaugment=4, augmix=2).describe()[1:] == [
        "p=0.50 HorizontalFlip",
        "p=0.50 RandomBrightnessContrast brightness_limit=(-0.1,0.1) contrast_limit=(-0.1,0.1)",
        "p=1.00 RandAugment magnitude=4",
        "p=0.20 RandomErasing",
        "p=1.00 AugMix severity=2",
    ]
    assert build(preset="none", flips="d4", size=(32, 48)).describe() == []


def dot_after(seeds, row=50, column=50, **knob):
    """Where a white dot of 3x3 comes to lie: (row, column) from the middle of 101x101 pixels, for each seed."""
    image = np.zeros((101, 101, 1), np.uint8)
    image[row - 1 : row + 2, column - 1 : column + 2] = 255
    augment = build(preset="none", size=(101, 101), channels=1, **knob)
    rows, columns = np.mgrid[-50:51, -50:51]
    found = [augment(image, seed)[..., 0].astype(float) for seed in range(seeds)]
    return np.array([((one * rows).sum() / one.sum(), (one * columns).sum() / one.sum()) for one in found])


def test_rotation_turns_around_the_middle_and_no_further_than_it_may():
    assert np.abs(dot_after(60, rotate=180)).max() < 0.01
    moved = dot_after(200, column=90, rotate=20)
    angles = np.degrees(np.arctan2(moved[:, 0], moved[:, 1]))
    assert np.hypot(moved[:, 0], moved[:, 1]) == pytest.approx(40, abs=0.8)
    assert 17 < np.abs(angles).max() < 21
    assert min(angles) < -15 < 15 < max(angles)


def test_translation_shifts_each_axis_by_its_share_at_most():
    moved = dot_after(200, translate=0.2)
    assert 18 < np.abs(moved).max() < 21  # .2 of 101, and a pixel of rounding
    assert moved.min(axis=0).max() < -15
    assert moved.max(axis=0).min() > 15
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.3


def test_scale_zooms_around_the_middle_between_its_factors():
    bar = np.zeros((101, 101, 1), np.uint8)
    bar[:, 70:] = bar[:, :31] = 255
    augment = build(preset="none", scale=[0.5, 2], size=(101, 101), channels=1)
    for half in (slice(50, None), slice(50, None, -1)):
        starts = [(augment(bar, seed)[50, half, 0] > 128).argmax() for seed in range(200)]  # 20 without a zoom
        assert 9 <= min(starts) < 12
        assert 36 < max(starts) <= 41


def test_a_crop_keeps_at_least_its_share_of_the_area():
    """Two ramps say by how much the picture was enlarged."""
    image = np.stack([*np.mgrid[0:240, 0:240], np.zeros((240, 240))], axis=2).astype(np.uint8)
    augment = build(preset="none", crop=0.4, size=(96, 96))
    assert augment.source_size == (120, 120)
    areas = []
    for seed in range(200):
        found = augment(image, seed).astype(float)
        down, across = (found[80, :, 0] - found[15, :, 0]).mean() / 65, (found[:, 80, 1] - found[:, 15, 1]).mean() / 65
        areas.append(down * across * 96 * 96 / 240**2)
    assert 0.38 < min(areas) < 0.5
    assert 0.85 < max(areas) < 1.02


def test_brightness_and_contrast_stay_within_their_share():
    plain = np.full((48, 48, 3), 100, np.uint8)
    values = [build(preset="none", brightness=0.2)(plain, seed)[0, 0, 0] for seed in range(300)]
    # contrast 1 -+ .2 times 100, brightness -+ .2 times 255
    assert 29 <= min(values) < 45
    assert 155 < max(values) <= 171
    assert 90 < np.sum(np.array(values) != 100) < 210


def test_colour_changes_hue_saturation_and_value_within_its_share():
    red = np.full((48, 48, 3), (200, 80, 80), np.uint8)
    found = np.array([build(preset="none", colour=0.2)(red, seed)[:1] for seed in range(200)])[:, 0]
    hue, saturation, value = cv2.cvtColor(found, cv2.COLOR_RGB2HSV)[:, 0].astype(int).T
    hue = (hue + 90) % 180 - 90
    assert 15 < np.abs(hue).max() <= 21
    assert 40 < np.abs(saturation - 153).max() <= 52
    assert 25 < np.abs(value - 200).max() <= 31


def test_blur_and_noise_stay_within_their_bounds():
    dot = np.zeros((101, 101, 1), np.uint8)
    dot[48:53, 48:53] = 255
    squares = np.arange(-50, 51) ** 2
    sigmas = []
    for seed in range(200):
        found = build(preset="none", blur=6, size=(101, 101), channels=1)(dot, seed)[..., 0].astype(float)
        sigmas.append(np.sqrt(max((found.sum(axis=0) * squares).sum() / found.sum() - 2, 0)))  # a 5x5 square's is 2
    assert 4.5 < max(sigmas) < 6.2
    assert 1.8 < min(sigma for sigma in sigmas if sigma > 0.1) < 3
    grey = np.full((64, 64, 3), 128, np.uint8)
    deviations = [build(preset="none", noise=0.1, size=(64, 64))(grey, seed).std() / 255 for seed in range(200)]
    assert 0.09 < max(deviations) < 0.102
    assert 0.02 < min(one for one in deviations if one > 0) < 0.05


def test_blur_and_noise_together_never_meet():
    augment = build(preset="none", blur=5, noise=0.3, size=(72, 96))
    flat = np.full((72, 96, 3), 128, np.uint8)
    noisy = [bool(augment(flat, seed).std() > 0) for seed in range(200)]
    changed = [not np.array_equal(augment(IMAGE, seed), IMAGE) for seed in range(200)]
    assert 40 < sum(changed) < 80
    assert 15 < sum(noisy) < sum(changed) - 15


@pytest.mark.parametrize("channels", [2, 3, 6])
@pytest.mark.parametrize("is_uint8", [True, False])
def test_arrays_take_the_knobs_that_fit_them(channels, is_uint8):
    image = RNG.integers(0, 200, (30, 30, channels)).astype(np.uint8 if is_uint8 else np.float32) - (not is_uint8) * 50
    if is_uint8 and channels == 3:
        found = build(preset="none", channels=channels, is_uint8=is_uint8, size=(30, 30), **KNOBS)
        assert names(found).endswith("OneOf GaussianBlur GaussNoise RandAugment Cutout RandomErasing AugMix")
    else:
        for knob in ("brightness", "colour", "blur", "noise", "randaugment", "augmix"):
            with pytest.raises(UserError) as caught:
                build(preset="none", channels=channels, is_uint8=is_uint8, **{knob: 1})
            assert str(caught.value) == f"augment.{knob}=1: needs 8-bit pictures of 1 or 3 channels; leave it out"
        geometric = {knob: KNOBS[knob] for knob in ("crop", "rotate", "translate", "scale", "cutout", "erasing")}
        found = build(preset="heavy", flips="none", channels=channels, is_uint8=is_uint8, size=(30, 30), **geometric)
        assert names(found) == "RandomResizedCrop Affine Cutout RandomErasing"
        for seed in range(30):
            one = found(image, seed)
            assert (one.shape, one.dtype) == (image.shape, image.dtype)
            low, high = (0, 255) if is_uint8 else (-50, 149)
            assert low <= one.min() <= one.max() <= high


@pytest.mark.parametrize("preset", ["none", "heavy"])
@pytest.mark.parametrize("channels", [1, 3])
def test_consistency_views_are_the_clean_picture_and_two_that_augmix_made_of_it(preset, channels):
    image = IMAGE[..., :channels]
    augment = build(preset=preset, channels=channels, augmix=5, augmix_consistency=12, size=(40, 48))
    clean, single = (build(preset=preset, channels=channels, augmix=mix, size=(40, 48)) for mix in (0, 5))
    copy = pickle.loads(pickle.dumps(augment))
    assert (augment.num_views, clean.num_views, single.num_views) == (3, 1, 1)
    assert names(augment) == names(single) == f"{names(clean)} AugMix".strip()
    num_alike = 0
    for seed in range(40):
        views = augment(image, seed)
        assert views.shape == (3, 40, 48, channels)
        assert views.dtype == np.uint8
        assert np.array_equal(views[0], clean(image, seed))
        assert np.array_equal(views[1], single(image, seed))
        assert np.array_equal(copy(image, seed), views)
        num_alike += np.array_equal(views[1], views[2])
    assert num_alike <= 4  # now and then AugMix's share of the original is nearly all


def test_decode_size_is_what_the_transforms_look_at():
    assert build_resize((48, 48)).decode_size == (48, 48)
    assert build(preset="light").decode_size == build(transforms=["D4"]).decode_size == (48, 48)
    assert build(preset="heavy").decode_size == build(preset="none", crop=0.5).decode_size == (60, 60)
    assert build(preset="heavy", crop=1).decode_size == (48, 48)
    assert build([{"CenterCrop": {"height": 48, "width": 48}}]).decode_size is None
    assert build([]).decode_size == (48, 48)

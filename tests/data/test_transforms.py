"""Augmentation: decided by the seed alone, of one size and type; wrong own transforms are refused in one line."""

import pickle
import random
from collections import Counter
from dataclasses import replace

import albumentations as A
import cv2
import numpy as np
import pytest

from src.config.settings import Augment, Competition, Config
from src.data import augmentations
from src.data.decode import resize_image
from src.data.transforms import build_augmentation, build_resize
from src.errors import UserError
from tests.data.building import FLIPS, IMAGE, PRESETS, RNG, augmentation, build, names, resizing


def build_own(transforms, size=(48, 48), channels=3, is_uint8=True, **settings):
    return augmentation(Augment(transforms=transforms, **settings), size, channels, is_uint8)


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
    augment = build_own(flips, size=(5, 5), channels=1)
    counts = Counter(augment(square, seed).tobytes() for seed in range(400))
    assert set(counts) <= {one.tobytes() for one in turned}
    assert len(counts) == views
    assert min(counts.values()) > 400 / views * 0.6


def test_none_is_the_plain_resize():
    augment, resize = build(preset="none", flips="d4"), resizing((48, 48))
    assert all(np.array_equal(augment(IMAGE, seed), resize(IMAGE, 0)) for seed in range(5))


def test_resize_shrinks_by_area_and_enlarges_linearly():
    third = resizing((24, 32))(IMAGE, 0)
    assert np.abs(third - IMAGE.reshape(24, 3, 32, 3, 3).mean(axis=(1, 3))).max() <= 0.51
    doubled = resizing((144, 192))(IMAGE, 0)
    assert np.array_equal(doubled, cv2.resize(IMAGE, (192, 144), interpolation=cv2.INTER_LINEAR))
    assert resizing((10, 20))(IMAGE[..., :1], 0).shape == (10, 20, 1)


WIDE = np.arange(40 * 80 * 3, dtype=np.int64).reshape(40, 80, 3) * 7 % 251


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_letterbox_shows_all_between_black_bars_and_crop_the_middle(dtype):
    """40x80 to 20x20: a letterbox of 10x20 with 5 rows above and below, or the columns 20 to 60 halved."""
    image = (WIDE + 1).astype(dtype)
    halved = image.reshape(20, 2, 40, 2, 3).mean(axis=(1, 3))
    letterbox, crop = (resize_image(image, (20, 20), how) for how in ("letterbox", "crop"))
    quarter = image.reshape(10, 4, 20, 4, 3).mean(axis=(1, 3))
    black = 0 if dtype == np.uint8 else 1
    assert np.abs(letterbox[5:15] - quarter).max() <= 0.51
    assert (letterbox[:5] == black).all()
    assert (letterbox[15:] == black).all()
    assert np.abs(crop - halved[:, 10:30]).max() <= 0.51
    assert letterbox.dtype == crop.dtype == dtype
    tall = resize_image(np.swapaxes(image, 0, 1), (20, 20), "letterbox")
    assert np.array_equal(tall, np.swapaxes(letterbox, 0, 1))


@pytest.mark.parametrize(("size", "bars", "columns"), [((10, 40), (0, 10), (0, 80)), ((20, 30), (2, 0), (10, 70))])
def test_sizes_that_are_not_square_keep_proportions(size, bars, columns):
    image = np.full((40, 80, 1), 200, np.uint8)
    found = resize_image(image, size, "letterbox")[..., 0] > 0
    rows, places = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    assert (rows[0], places[0]) == bars
    ramp = np.tile(np.arange(80, dtype=np.uint8), (40, 1))[..., None]
    crop = resize_image(ramp, size, "crop")[..., 0]
    assert abs(int(crop[0, 0]) - columns[0]) <= 1.5
    assert abs(int(crop[0, -1]) - columns[1]) <= 1.5


def test_extreme_proportions_take_no_memory():
    line = np.zeros((2, 100_000, 3), np.uint8)
    assert all(resize_image(line, (224, 224), how).shape == (224, 224, 3) for how in ("squash", "letterbox", "crop"))


@pytest.mark.parametrize("how", ["squash", "letterbox", "crop"])
def test_training_and_validation_resize_alike(how):
    image = WIDE.astype(np.uint8)
    config = Config(image_size=(20, 24), resize=how, augment=Augment(preset="none"))
    expected = resize_image(image, (20, 24), how)
    assert np.array_equal(build_resize(config)(image, 0), expected)
    assert np.array_equal(build_augmentation(config, True)(image, 0), expected)
    flips = replace(config, augment=Augment(transforms=[{"HorizontalFlip": {"p": 1}}]))
    assert np.array_equal(build_augmentation(flips, True)(image, 0), expected[:, ::-1])
    own = replace(config, augment=Augment(transforms=[{"CenterCrop": {"height": 20, "width": 20}}]))
    assert np.array_equal(build_augmentation(own, True)(image, 0), resize_image(image[10:30, 30:50], (20, 24), how))


def test_own_transforms_replace_preset_and_flips():
    augment = build_own([{"VerticalFlip": {"p": 1}}], preset="heavy", flips="d4", size=(72, 96))
    assert all(np.array_equal(augment(IMAGE, seed), IMAGE[::-1]) for seed in range(10))


def test_own_transforms_nest_and_know_opencvs_names():
    augment = build_own(
        [{"OneOf": {"transforms": ["HorizontalFlip", {"VerticalFlip": {"p": 0.5}}], "p": 1}},
         {"Affine": {"rotate": [0, 0], "border_mode": "BORDER_REFLECT_101"}}],
        size=(72, 96),
    )  # fmt: skip
    seen = Counter(augment(IMAGE, seed).tobytes() for seed in range(100))
    assert set(seen) == {IMAGE[::-1].tobytes(), IMAGE[:, ::-1].tobytes()}


def test_own_crops_see_the_image_before_it_is_shrunk():
    augment = build_own([{"CenterCrop": {"height": 48, "width": 48}}])
    assert np.array_equal(augment(IMAGE, 0), IMAGE[12:60, 24:72])
    small = cv2.resize(IMAGE, (24, 18))  # is enlarged to cover 48x48, to 48x64
    assert np.array_equal(augment(small, 0), cv2.resize(small, (64, 48))[:, 8:56])


def test_own_transforms_that_end_in_another_size_are_resized():
    assert build_own([{"RandomScale": {"p": 1}}])(IMAGE, 0).shape == (48, 48, 3)
    assert build_own(["Transpose"], size=(40, 60))(IMAGE, 1).shape == (40, 60, 3)


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
        ("ToTensorV2", "ToTensorV2 is not needed, images become tensors later; leave it out"),
        ("Normalize", "Normalize does not keep uint8 pixels of 3 channels; leave it out (pixels are normalised later, "
         "on the device)"),
        ({"RandomCrop": {"height": 50, "width": 50}}, "RandomCrop fails on uint8 (48, 48, 3): Crop size (height, "
         "width) exceeds image dimensions (height, width): (50, 50) vs (48, 48)"),
    ],
)  # fmt: skip
def test_wrong_transforms_are_refused(transform, message):
    with pytest.raises(UserError) as caught:
        build_own([transform])
    assert str(caught.value) == f"augment.transforms: {message}"


def test_a_transform_that_needs_colour_is_refused_for_grey():
    with pytest.raises(UserError, match=r"^augment.transforms: ChannelDropout fails on uint8 \(48, 48, 1\)"):
        build_own([{"OneOf": {"transforms": ["D4", "ChannelDropout"], "p": 0.1}}], channels=1)


@pytest.mark.parametrize("preset", ["none", "heavy"])
@pytest.mark.parametrize("channels", [1, 3])
def test_consistency_views_are_the_clean_image_and_two_that_augmix_made_of_it(preset, channels):
    image = IMAGE[..., :channels]
    settings = Augment(preset=preset, kwargs={"augmix": 5}, augmix_consistency=12)
    augment = augmentation(settings, (40, 48), channels)
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
    assert resizing((48, 48)).decode_size == (48, 48)
    assert build(preset="light").decode_size == build_own(["D4"]).decode_size == (48, 48)
    assert build(preset="heavy").decode_size == build(preset="none", crop=0.5).decode_size == (60, 60)
    assert build(preset="heavy", crop=1).decode_size == (48, 48)
    assert build_own([{"CenterCrop": {"height": 48, "width": 48}}]).decode_size is None
    assert build_own([]).decode_size == (48, 48)


def test_a_seed_gives_the_same_image_in_any_pipeline_of_the_same_settings():
    first, second = build(preset="heavy"), build(preset="heavy")
    assert all(np.array_equal(first(IMAGE, seed), second(IMAGE, seed)) for seed in range(10))


@pytest.mark.parametrize(("channels", "is_uint8"), [(3, True), (6, False)])
def test_an_augmentation_that_breaks_the_pixels_is_refused_before_training(monkeypatch, channels, is_uint8):
    to_float = A.ToFloat if is_uint8 else A.FromFloat
    monkeypatch.setitem(augmentations.AUGMENTATIONS, "to_float", lambda most: to_float(max_value=most, p=1))
    with pytest.raises(UserError, match=f"^augment.kwargs: {to_float.__name__} does not keep"):
        build(preset="none", channels=channels, is_uint8=is_uint8, to_float=255)


@pytest.mark.parametrize("augmix", [0, 12])
def test_all_images_of_a_row_get_the_same_draw(augmix):
    kwargs = {"augmix": 3} if augmix else {}
    settings = Augment(preset="heavy", kwargs=kwargs, augmix_consistency=augmix)
    competition = Competition(images="{id}/*", num_images=3, images_as="max")
    augment = build_augmentation(Config(augment=settings, image_size=(48, 48), competition=competition), True)
    other = IMAGE[::-1].copy()
    found = augment(np.concatenate([IMAGE, other, IMAGE], axis=2), seed=5)
    expected = [augment(one, seed=5) for one in (IMAGE, other, IMAGE)]
    assert np.array_equal(found, np.concatenate(expected, axis=-1))


@pytest.mark.parametrize("channels", [2, 4, 5, 8, 24, 64])
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_take_any_number_of_channels(channels, preset):
    augment = build(channels=channels, preset=preset, flips="d4", cutout=0.3, erasing=0.5, crop=0.5, stretch=1.2)
    image = np.random.default_rng(0).integers(0, 256, (60, 50, channels), dtype=np.uint8)
    for seed in range(8):
        found = augment(image, seed)
        assert (found.shape, found.dtype) == ((48, 48, channels), np.uint8)

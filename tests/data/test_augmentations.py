"""Each augmentation by what it does to known images, the presets as written out, and what is refused in one line."""

import pickle
import random
from collections import Counter

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from src.data import augmentations
from src.data.augmentations import AugMix, Cutout, RandAugment, RandomErasing
from src.data.transforms import Augmentation
from src.errors import UserError
from tests.data.building import FLIPS, IMAGE, PRESETS, RNG, build, describe, names, resizing


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("flips", "views"), [("hflip", "lr"), ("vflip", "ud"), ("hvflip", "lr ud both"), ("none", "")])
def test_flips_apply_in_every_preset(preset, flips, views):
    """A bright corner of the image says which way it was mirrored."""
    corner = np.zeros((64, 64, 3), np.uint8)
    corner[4:30, 4:30] = 255
    seen = Counter()
    augment = build(preset=preset, flips=flips, size=(64, 64))
    for seed in range(80):
        halves = augment(corner, seed).astype(float)[8:56, 8:56].reshape(2, 24, 2, 24, 3).mean(axis=(1, 3, 4))
        seen[{0: "as is", 1: "lr", 2: "ud", 3: "both"}[int(halves.argmax())]] += 1
    # heavy may hide the corner or turn it away, but rarely
    assert {view for view, count in seen.items() if count > 3} == {"as is", *views.split()}


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
def test_grey_images(preset):
    augment = build(preset=preset, channels=1)
    assert {augment(IMAGE[..., :1], seed).shape for seed in range(30)} == {(48, 48, 1)}


def test_medium_changes_brightness_half_the_time_and_light_never():
    plain = np.full((48, 48, 3), 100, np.uint8)
    changed = [build(preset="medium")(plain, seed).std() + abs(build(preset="medium")(plain, seed).mean() - 100) > 0
               for seed in range(100)]  # fmt: skip
    assert 30 < sum(changed) < 70
    assert all((build(preset="light")(plain, seed) == 100).all() for seed in range(30))


def test_d4_needs_square_images():
    with pytest.raises(UserError, match=r"augment.flips=d4: needs square images, image_size is \[32, 48\]"):
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


STRENGTHS = {
    "crop": 0.3, "rotate": 40, "translate": 0.3, "scale": [0.5, 2], "brightness": 0.5, "colour": 0.5, "blur": 5,
    "noise": 0.3, "cutout": 0.5, "erasing": 0.5, "rand_augment": 5, "augmix": 5, "stretch": 1.5,
}  # fmt: skip
NAMES = {
    "crop": "RandomResizedCrop", "rotate": "Affine", "translate": "Affine", "scale": "Affine",
    "brightness": "RandomBrightnessContrast", "colour": "HueSaturationValue", "blur": "OneOf GaussianBlur",
    "noise": "OneOf GaussNoise", "cutout": "Cutout", "erasing": "RandomErasing", "rand_augment": "RandAugment",
    "augmix": "AugMix", "stretch": "Affine",
}  # fmt: skip
OFF = {"crop": 1, "rotate": 0, "translate": 0, "scale": [1, 1], "brightness": 0, "colour": 0, "blur": 0, "noise": 0,
       "cutout": 0, "stretch": 1}  # fmt: skip


@pytest.mark.parametrize("name", STRENGTHS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_augmentation_alone_acts_alone(name, channels):
    if name == "colour" and channels == 1:
        with pytest.raises(UserError) as caught:
            build(preset="none", channels=1, colour=0.5)
        assert str(caught.value) == "augment.kwargs.colour=0.5: grey images have no colour; leave it out"
        return
    augment = build(preset="none", flips="hvflip", channels=channels, **{name: STRENGTHS[name]})
    copy = pickle.loads(pickle.dumps(augment))
    image, plain = IMAGE[..., :channels], resizing((48, 48))(IMAGE[..., :channels], 0)
    found = [augment(image, seed) for seed in range(40)]
    assert {(one.shape, str(one.dtype)) for one in found} == {((48, 48, channels), "uint8")}
    assert all(np.array_equal(copy(image, seed), one) for seed, one in reversed(list(enumerate(found))))
    assert names(augment) == NAMES[name]
    changed = {one.tobytes() for one in found if not np.array_equal(one, plain)}
    few = {"blur": 5, "noise": 5, "brightness": 10, "colour": 10, "cutout": 10, "erasing": 10}
    assert len(changed) >= few.get(name, 25)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_strength_switches_a_preset_s_augmentation_off(preset):
    assert names(build(preset=preset, **OFF)) == "HorizontalFlip"
    assert build(preset=preset, **OFF).source_size == (48, 48)
    for name in ("rotate", "translate", "scale"):
        assert "Affine" in names(build(preset=preset, **{name: OFF[name]}))  # the other two stay
    gone = {"crop": "RandomResizedCrop ", "brightness": " RandomBrightnessContrast", "colour": " HueSaturationValue",
            "blur": " GaussianBlur", "noise": " GaussNoise", "cutout": " CoarseDropout"}  # fmt: skip
    for name, line in gone.items():
        assert names(build(preset=preset, **{name: OFF[name]})) == names(build(preset=preset)).replace(line, "")


def dot_after(seeds, row=50, column=50, **kwargs):
    """Where a white dot of 3x3 comes to lie: (row, column) from the middle of 101x101 pixels, for each seed."""
    image = np.zeros((101, 101, 1), np.uint8)
    image[row - 1 : row + 2, column - 1 : column + 2] = 255
    augment = build(preset="none", size=(101, 101), channels=1, **kwargs)
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
    """Two ramps say by how much the image was enlarged."""
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
def test_arrays_take_the_augmentations_that_fit_them(channels, is_uint8):
    image = RNG.integers(0, 200, (30, 30, channels)).astype(np.uint8 if is_uint8 else np.float32) - (not is_uint8) * 50
    if is_uint8 and channels == 3:
        found = build(preset="none", channels=channels, is_uint8=is_uint8, size=(30, 30), **STRENGTHS)
        assert "Affine Affine Random" in names(found)
        assert names(found).endswith("OneOf GaussianBlur GaussNoise RandAugment Cutout RandomErasing AugMix")
    else:
        for name in ("brightness", "colour", "blur", "noise", "rand_augment", "augmix"):
            with pytest.raises(UserError) as caught:
                build(preset="none", channels=channels, is_uint8=is_uint8, **{name: 1})
            assert str(caught.value) == f"augment.kwargs.{name}=1: needs 8-bit images of 1 or 3 channels; leave it out"
        geometric = {name: STRENGTHS[name] for name in ("crop", "rotate", "translate", "scale", "cutout", "erasing")}
        found = build(preset="heavy", flips="none", channels=channels, is_uint8=is_uint8, size=(30, 30), **geometric)
        assert names(found) == "RandomResizedCrop Affine Cutout RandomErasing"
        for seed in range(30):
            one = found(image, seed)
            assert (one.shape, one.dtype) == (image.shape, image.dtype)
            low, high = (0, 255) if is_uint8 else (-50, 149)
            assert low <= one.min() <= one.max() <= high


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


@pytest.mark.parametrize("transform", [RandAugment(7), AugMix(3), Cutout(0.4, p=1), RandomErasing(p=1)],
                         ids=lambda one: type(one).__name__)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 3])
def test_all_that_is_random_comes_from_the_transforms_own_stream(transform, channels):
    image = RNG.integers(0, 256, (40, 48, channels), dtype=np.uint8)
    before, state, num_threads = image.copy(), torch.get_rng_state(), torch.get_num_threads()
    first = [apply(transform, image, seed) for seed in range(30)]
    assert torch.equal(torch.get_rng_state(), state)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    torch.manual_seed(1)
    copy = pickle.loads(pickle.dumps(transform))
    torch.set_num_threads(3)
    for seed in reversed(range(30)):
        assert np.array_equal(apply(copy, image, seed), first[seed])
    assert torch.get_num_threads() == 3
    torch.set_num_threads(num_threads)
    few = 20 if isinstance(transform, RandAugment) else 25  # pairs of some operations, of which a few change nothing
    assert len({one.tobytes() for one in first}) >= few
    assert {(one.shape, str(one.dtype), one.flags.writeable) for one in first} == {(image.shape, "uint8", True)}
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", ["rand_augment", "augmix", "erasing", "cutout"])
def test_a_pipeline_of_one_transform_depends_on_the_seed_and_not_on_earlier_calls(name):
    """The pipeline hands its one stream to the transform; a transform with a stream of its own would fail."""
    augment = build(preset="none", size=IMAGE.shape[:2], **{name: 1})
    found = [augment(IMAGE, seed).tobytes() for seed in (3, 4, 3, 5, 4)]
    assert found[0] == found[2]
    assert found[1] == found[4]
    assert len(set(found)) >= 2


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_and_augmix_are_torchvisions_with_a_tenth_of_its_range_for_each_unit(channels):
    image = np.ascontiguousarray(IMAGE[..., :channels])
    for ours, theirs in [
        (RandAugment(10), v2.RandAugment(2, 30, interpolation=Image.BILINEAR)),
        (RandAugment(4.4), v2.RandAugment(2, 13, interpolation=Image.BILINEAR)),
        (AugMix(10), v2.AugMix(10, all_ops=False)),
        (AugMix(3), v2.AugMix(4, all_ops=False)),
        (AugMix(0.1), v2.AugMix(1, all_ops=False)),
    ]:
        for seed in range(5):
            with torch.random.fork_rng():
                torch.manual_seed(int(np.random.default_rng(seed).integers(2**63)))
                expected = np.array(theirs(Image.fromarray(image.squeeze())))
            assert np.array_equal(apply(ours, image, seed), expected.reshape(image.shape))


@pytest.mark.parametrize("kind", [RandAugment, AugMix])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_larger_strength_changes_more(kind, channels):
    image = np.ascontiguousarray(IMAGE[..., :channels]).astype(float)

    def change(strength):
        found = [apply(kind(strength), image.astype(np.uint8), seed) for seed in range(100)]
        return np.array([np.abs(one - image).mean() for one in found])

    weakest, low, middle, high = (change(strength) for strength in (0, 1, 5, 10))
    assert high.mean() > middle.mean() > low.mean() > weakest.mean()
    if kind is RandAugment:  # only autocontrast and equalize have no strength
        assert np.mean(weakest == 0) > 0.6
    assert weakest.mean() < 5


@pytest.mark.parametrize("severity", [0.05, 3, 10])
def test_augmix_takes_any_severity(severity):
    assert len({apply(AugMix(severity), IMAGE, seed).tobytes() for seed in range(10)}) >= 9


def test_a_null_strength_is_the_presets():
    assert describe(build(preset="heavy", crop=None, cutout=None)) == describe(build(preset="heavy"))


def test_every_preset_and_flip_can_be_built():
    for preset in augmentations.PRESETS:
        for flips in augmentations.FLIPS:
            assert build(preset=preset, flips=flips)(IMAGE, 0).shape == (48, 48, 3)


WRONG = {
    "rotate": [-1, 181, "x", True, [5], [0, 5], {"limit": 5}, float("nan")],
    "crop": [0, 0.001, 1.1],
    "scale": [2, [2], [1, 2, 3], [2, 1], [0, 1], [0.5, 11], ["a", "b"], [None, 1], "x"],
    "blur": [21],
    "rand_augment": [11],
    "augmix": [10.5],
    "cutout": [1.5, [0.2, 0.3]],
    "erasing": [2],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_strength_out_of_its_range_is_refused(name):
    for strength in WRONG[name]:
        with pytest.raises(UserError, match=rf"^augment\.kwargs\.{name}=.*: must be "):
            build(**{name: strength})
    with pytest.raises(UserError) as caught:
        build(scale=[2, 1])
    assert str(caught.value) == "augment.kwargs.scale=[2, 1]: must be [smallest, largest], for example [0.8, 1.25]"
    with pytest.raises(UserError) as caught:
        build(rotate=200)
    assert str(caught.value) == "augment.kwargs.rotate=200: must be from 0 to 180"


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UserError) as caught:
        build(rotat=20)
    assert str(caught.value).startswith("augment.kwargs: augment has no rotat (it has crop, rotate, ")
    assert str(caught.value).endswith("; did you mean rotate?")


def test_a_new_augmentation_is_one_entry(monkeypatch):
    """As a fork adds it: switched on by its name, seeded by the sample, in the place where the dict has it."""
    shuffle_grid = lambda cells: A.RandomGridShuffle((cells, cells), p=1)  # noqa: E731
    monkeypatch.setitem(augmentations.AUGMENTATIONS, "shuffle_grid", shuffle_grid)
    augment = build(preset="light", shuffle_grid=4)
    assert names(augment) == "Affine HorizontalFlip RandomGridShuffle"
    found = [augment(IMAGE, seed) for seed in (1, 2, 1)]
    assert np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[1])
    assert names(build(preset="light", shuffle_grid=0)) == names(build(preset="light")) == "Affine HorizontalFlip"
    monkeypatch.setitem(augmentations.PRESETS, "shuffled", {"shuffle_grid": 2})
    assert names(build(preset="shuffled", flips="none")) == "RandomGridShuffle"
    with pytest.raises(UserError, match=r"\(it has .* shuffle_grid\); did you mean shuffle_grid\?$"):
        build(shuffle_grd=1)


def test_a_new_augmentation_may_ask_for_the_size_and_crop(monkeypatch):
    monkeypatch.setitem(augmentations.AUGMENTATIONS, "center", lambda share, image_size: A.CenterCrop(*image_size))
    augment = build(preset="none", center=1)
    assert augment.decode_size == (60, 60)  # as any crop, it sees 1.25 times the size
    assert np.array_equal(augment(IMAGE, 0), resizing((60, 60))(IMAGE, 0)[6:54, 6:54])


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_stretch_changes_proportions_about_the_middle(channels):
    """A disc of radius 12 becomes an ellipse as tall as before, between 1.5 times wider and 1.5 times narrower."""
    image = np.zeros((61, 61), np.float32)
    cv2.circle(image, (30, 30), 12, 200, -1)
    transform = build((61, 61), channels, False, "none", "none", stretch=1.5)
    ratios = []
    for seed in range(200):
        found = transform(np.repeat(image[..., None], channels, axis=2), seed)[..., -1]
        assert abs(found[:, 30].sum() / 200 - 25) < 0.5
        assert np.abs(found - found[::-1, ::-1]).mean() < 1.5  # still in the middle
        ratios.append(found[30].sum() / 200 / 25)
    assert 1 / 1.5 - 0.03 < min(ratios) < 0.72
    assert 1.42 < max(ratios) < 1.53

"""From the settings of augmentation to a list of transforms: presets, the knobs beside them, flips."""

from types import SimpleNamespace

import albumentations as A
import cv2

from src.data.erasing import Cutout, RandomErasing
from src.data.rand_augment import AugMix, RandAugment
from src.errors import UserError

# a knob's value that does nothing
_ZEROS = ("rotate", "translate", "brightness", "colour", "blur", "noise", "cutout")
_OFF = {"crop": 1, "scale": (1, 1)} | dict.fromkeys(_ZEROS, 0)
_PRESETS = {
    "none": {},
    "light": {"rotate": 7, "translate": 0.05, "scale": (0.9, 1.1)},
    "medium": {"rotate": 15, "translate": 0.08, "scale": (0.85, 1.2), "brightness": 0.2},
    "heavy": {
        "crop": 0.5,
        "rotate": 30,
        "translate": 0.1,
        "scale": (0.8, 1.2),
        "brightness": 0.3,
        "colour": 0.1,
        "blur": 1.5,
        "noise": 0.08,
        "cutout": 0.375,
    },
}
_AFFINE_P = {"none": 0.9, "light": 0.7, "medium": 0.9, "heavy": 0.7}
_BRIGHTNESS_P = {"none": 0.5, "light": 0.5, "medium": 0.5, "heavy": 0.7}
_FLIPS = {
    "none": [],
    "hflip": [(A.HorizontalFlip, 0.5)],
    "vflip": [(A.VerticalFlip, 0.5)],
    "hvflip": [(A.HorizontalFlip, 0.5), (A.VerticalFlip, 0.5)],
    "d4": [(A.D4, 1)],
}


def build_transforms(settings, image_size, channels, is_uint8):
    """Return the transforms that a preset and the knobs beside it ask for, in the order they are applied.

    A knob that is set takes the place of the preset's value. Flips belong to the presets other than none. Images that
    are not uint8, or have other than 1 or 3 channels, get crop, affine, flips, Random Erasing and a cutout that is set;
    grey ones get all but colour. heavy's own cutout is a rectangle of .2 to .375 of each side.

    Args:
        settings: src.config.settings.Augment.
        image_size: (height, width) after a crop.
        channels: of the images.
        is_uint8: whether their pixels are 8-bit.

    Raises:
        UserError: a knob is set that such images cannot have.
    """
    knobs = {key: value for key in _OFF if (value := getattr(settings, key)) is not None}
    values = SimpleNamespace(**_OFF | _PRESETS[settings.preset] | knobs)
    is_picture = is_uint8 and channels in (1, 3)
    _check_knobs(settings, knobs, channels, is_picture)
    transforms = []
    if values.crop < 1:
        transforms.append(
            A.RandomResizedCrop(image_size, scale=(values.crop, 1.0), ratio=(0.8, 1.25), area_for_downscale="image")
        )
    if values.rotate or values.translate or tuple(values.scale) != (1, 1):
        transforms.append(_build_affine(values, _AFFINE_P[settings.preset]))
    if settings.preset != "none":
        transforms += [flip(p=p) for flip, p in _FLIPS[settings.flips]]
    if is_picture:
        transforms += _build_pixelwise(values, channels, _BRIGHTNESS_P[settings.preset])
        transforms += [RandAugment(settings.randaugment)] if settings.randaugment else []
    if settings.cutout:
        transforms.append(Cutout(settings.cutout))
    elif values.cutout and is_picture:
        sides = (values.cutout * 8 / 15, values.cutout)
        transforms.append(A.CoarseDropout((1, 1), sides, sides, p=0.5))
    transforms += [RandomErasing(settings.erasing)] if settings.erasing else []
    return transforms + ([AugMix(settings.augmix)] if settings.augmix else [])


def _check_knobs(settings, knobs, channels, is_picture):
    """Refuse what was asked for and these images cannot have; what a preset alone brings is left out instead.

    Raises:
        UserError: names the setting.
    """
    asked = {key: knobs.get(key) for key in ("brightness", "colour", "blur", "noise")}
    asked |= {"randaugment": settings.randaugment, "augmix": settings.augmix}
    key = next((key for key, value in asked.items() if value), None)
    if key and not is_picture:
        raise UserError(f"augment.{key}={asked[key]:g}: needs 8-bit pictures of 1 or 3 channels; leave it out")
    if asked["colour"] and channels == 1:
        raise UserError(f"augment.colour={asked['colour']:g}: grey pictures have no colour; leave it out")


def _build_affine(values, p):
    """Rotation in degrees, shift as a share of the side, zoom as a factor; the border mirrors the picture."""
    shift = (-values.translate, values.translate)
    return A.Affine(
        rotate=(-values.rotate, values.rotate),
        translate_percent={"x": shift, "y": shift},
        scale=tuple(values.scale),
        keep_ratio=True,
        border_mode=cv2.BORDER_REFLECT_101,
        p=p,
    )


def _build_pixelwise(values, channels, brightness_p):
    transforms = []
    if values.brightness:
        transforms.append(A.RandomBrightnessContrast(values.brightness, values.brightness, p=brightness_p))
    if values.colour and channels == 3:
        share = values.colour  # of OpenCV's units: hue has 180, saturation and value have 256
        transforms.append(A.HueSaturationValue(100 * share, 250 * share, 150 * share, p=0.5))
    blur_or_noise = [A.GaussianBlur(sigma_limit=(values.blur / 3, values.blur))] if values.blur else []
    blur_or_noise += [A.GaussNoise(std_range=(values.noise / 4, values.noise))] if values.noise else []
    return transforms + ([A.OneOf(blur_or_noise, p=0.3)] if blur_or_noise else [])

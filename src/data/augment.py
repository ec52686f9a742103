"""Augmentation: the only door to albumentations.

The idea to know: an output depends on (image, seed) and nothing else. albumentations 2.0.8 repeats its random numbers
in loader workers, and its `set_random_seed` gives every transform the same ones (a horizontal and a vertical flip then
always come together), so each image sets one shared stream with `set_random_state`.
"""

import inspect
import os
import random
import warnings

import cv2
import numpy as np

from src.errors import UserError, listing, nearest

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else the import asks the network for a newer version

import albumentations as A

_BASES = (A.ImageOnlyTransform, A.DualTransform)
_COMPOSITES = {one.__name__: one for one in (A.OneOf, A.SomeOf, A.Sequential, A.RandomOrder)}
_TRANSFORMS = _COMPOSITES | {
    name: one
    for name, one in vars(A).items()
    if inspect.isclass(one)
    and issubclass(one, _BASES)
    and not issubclass(one, A.Transform3D)
    and one not in (*_BASES, A.Lambda)  # a function cannot be written in YAML
}
_CHANGE_SIZE = ("Crop", "Resize", "MaxSize", "Pad", "RandomScale")


class Augmentation:
    """Brings an image to `image_size` and applies transforms on the way; can be pickled.

    Attributes:
        image_size: (height, width) of every output.
        source_size: (height, width) the image is resized to before the transforms; None: it keeps its own size, but
            is enlarged to cover image_size where it is smaller, so that a crop of that size always fits.
    """

    def __init__(self, image_size, transforms=(), source_size=None):
        self.image_size = tuple(image_size)
        self.source_size = source_size
        self._pipeline = A.Compose(list(transforms)) if transforms else None

    def __call__(self, image, seed):
        """Return the image as (*image_size, C) of the same dtype.

        Args:
            image: (H, W, C) uint8 or float32.
            seed: int >= 0; decides all that is random.
        """
        if self._pipeline is not None:
            image = _resize(image, self.source_size) if self.source_size else _cover(image, self.image_size)
            self._pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
            image = self._pipeline(image=image)["image"]
        return np.ascontiguousarray(_resize(image, self.image_size))


def build_resize(image_size):
    """Return the Augmentation of validation and test: a plain resize, by area when shrinking, else linear."""
    return Augmentation(image_size)


def build_augmentation(settings, image_size, channels, is_uint8):
    """Return the Augmentation of training images.

    Transforms work on the image at image_size, where they are cheap. heavy crops from 1.25 times that size; own
    transforms, of which any crops, pads or resizes, see the image at its own size. Images that are not uint8, or have
    other than 1 or 3 channels, get a preset's geometric part only.

    Args:
        settings: src.config.Augment.
        image_size: (height, width).
        channels: of the images.
        is_uint8: whether their pixels are 8-bit.

    Raises:
        UserError: a transform's name, argument or value is wrong, or it does not keep what the network needs.
    """
    if settings.transforms is not None:
        transforms = [_build_transform(entry) for entry in settings.transforms]
        changes_size = any(word in name for name in _names(transforms) for word in _CHANGE_SIZE)
        probe = np.full((*image_size, channels), 128, np.uint8 if is_uint8 else np.float32)
        for transform in transforms:
            probe = _check_output(transform, probe)
        return Augmentation(image_size, transforms, None if changes_size else tuple(image_size))
    if settings.preset == "none":
        return Augmentation(image_size)
    if settings.flips == "d4" and image_size[0] != image_size[1]:
        raise UserError(
            f"augment.flips=d4: needs square pictures, image_size is {list(image_size)}; set augment.flips=hvflip"
        )
    geometry, colour = _PRESETS[settings.preset](tuple(image_size), channels)
    transforms = [*geometry, *_FLIPS[settings.flips]()] + (colour if is_uint8 and channels in (1, 3) else [])
    scale = 1.25 if settings.preset == "heavy" else 1
    return Augmentation(image_size, transforms, tuple(round(side * scale) for side in image_size))


_FLIPS = {
    "none": lambda: [],
    "hflip": lambda: [A.HorizontalFlip(p=0.5)],
    "vflip": lambda: [A.VerticalFlip(p=0.5)],
    "hvflip": lambda: [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)],
    "d4": lambda: [A.D4(p=1)],
}


def _affine(rotate, shift, scale, p):
    """Rotation in degrees, shift as a share of the side, zoom as a factor; the border mirrors the picture."""
    return A.Affine(
        rotate=(-rotate, rotate),
        translate_percent={"x": (-shift, shift), "y": (-shift, shift)},
        scale=scale,
        keep_ratio=True,
        border_mode=cv2.BORDER_REFLECT_101,
        p=p,
    )


def _light(image_size, channels):
    return [_affine(7, 0.05, (0.9, 1.1), p=0.7)], []


def _medium(image_size, channels):
    return [_affine(15, 0.08, (0.85, 1.2), p=0.9)], [A.RandomBrightnessContrast(0.2, 0.2, p=0.5)]


def _heavy(image_size, channels):
    geometry = [
        A.RandomResizedCrop(image_size, scale=(0.5, 1.0), ratio=(0.8, 1.25), area_for_downscale="image"),
        _affine(30, 0.1, (0.8, 1.2), p=0.7),
    ]
    colour = [
        A.RandomBrightnessContrast(0.3, 0.3, p=0.7),
        *([A.HueSaturationValue(10, 25, 15, p=0.5)] if channels == 3 else []),
        A.OneOf([A.GaussianBlur(sigma_limit=(0.5, 1.5)), A.GaussNoise(std_range=(0.02, 0.08))], p=0.3),
        A.CoarseDropout((1, 1), (0.2, 0.375), (0.2, 0.375), p=0.5),
    ]
    return geometry, colour


_PRESETS = {"light": _light, "medium": _medium, "heavy": _heavy}


def _build_transform(entry):
    """Build one entry of augment.transforms: "Name" or {Name: {argument: value}}; composites nest."""
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, dict) or len(entry) != 1 or not isinstance(next(iter(entry.values())) or {}, dict):
        raise UserError(
            f"augment.transforms: cannot read {entry}; write for example [{{Rotate: {{limit: 10, p: 0.5}}}}]"
        )
    [(name, arguments)] = entry.items()
    if name not in _TRANSFORMS:
        raise UserError(f"augment.transforms: albumentations has no {name}{nearest(name, _TRANSFORMS)}")
    known = [one for one in inspect.signature(_TRANSFORMS[name]).parameters if one != "self"]
    arguments = {key: _constant(value) for key, value in (arguments or {}).items()}
    for key in arguments:
        if key not in known:
            raise UserError(
                f"augment.transforms: {name} has no {key} (it has {listing(known, 20)}){nearest(key, known)}"
            )
    if name in _COMPOSITES:
        arguments["transforms"] = [_build_transform(one) for one in arguments.get("transforms") or []]
        if not arguments["transforms"]:
            raise UserError(f"augment.transforms: {name} is empty; give it transforms: [...]")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # albumentations ignores what it warns about
            return _TRANSFORMS[name](**arguments)
    except Exception as error:
        raise UserError(f"augment.transforms: {name}: {_first_reason(error, arguments)}") from None


def _constant(value):
    """OpenCV's constants by name, such as BORDER_REFLECT or INTER_CUBIC."""
    is_name = isinstance(value, str) and value.startswith(("BORDER_", "INTER_"))
    return getattr(cv2, value, value) if is_name else value


def _first_reason(error, arguments=()):
    """pydantic's "1 validation error ... / field / reason [type=...] / url" as "field=value: reason"."""
    lines = [line.strip() for line in str(error).splitlines()]
    if "validation error" not in lines[0]:
        return lines[0]
    at = next(row for row, line in enumerate(lines) if " [type=" in line)
    field = lines[at - 1].split(".")[0] if at > 1 else ""
    value = f"{field}={arguments[field]}: " if field in arguments else f"{field}: " if field else ""
    return value + lines[at].split(" [type=")[0].removeprefix("Value error, ")


def _names(transforms):
    for one in transforms:
        yield type(one).__name__
        yield from _names(getattr(one, "transforms", ()))


def _check_output(transform, image):
    """Apply a transform, and each one within, to a plain image; what goes wrong then, fails before the first epoch."""
    seen = image
    for child in getattr(transform, "transforms", ()):
        seen = _check_output(child, seen if isinstance(transform, A.Sequential) else image)
    name = type(transform).__name__
    transform.set_random_state(np.random.default_rng(0), random.Random(0))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            output = transform(image=image, force_apply=True)["image"]
    except Exception as error:
        raise UserError(
            f"augment.transforms: {name} fails on {image.dtype} {image.shape}: {_first_reason(error)}"
        ) from None
    if not isinstance(output, np.ndarray) or output.dtype != image.dtype or output.shape[2:] != image.shape[2:]:
        raise UserError(
            f"augment.transforms: {name} does not keep {image.dtype} pixels of {image.shape[2]} channels; leave it out "
            "(pixels are normalised later, on the device)"
        )
    return output


def _resize(image, size):
    height, width, channels = image.shape
    if (height, width) == tuple(size):
        return image
    method = cv2.INTER_AREA if height >= size[0] and width >= size[1] else cv2.INTER_LINEAR
    fours = [image[..., first : first + 4] for first in range(0, channels, 4)]  # INTER_AREA takes no more at once
    resized = [cv2.resize(four, size[::-1], interpolation=method).reshape(*size, -1) for four in fours]
    return resized[0] if len(resized) == 1 else np.concatenate(resized, axis=2)


def _cover(image, size):
    """Enlarge an image that is smaller than `size` in an axis, keeping its proportions."""
    factor = max(size[0] / image.shape[0], size[1] / image.shape[1])
    return image if factor <= 1 else _resize(image, tuple(round(side * factor) for side in image.shape[:2]))

"""Augmentation: what a training image goes through, by settings or by the user's own albumentations transforms.

The idea to know: an output depends on (image, seed) and nothing else. albumentations 2.0.8 repeats its random numbers
in loader workers, and its `set_random_seed` gives every transform the same ones (a horizontal and a vertical flip then
always come together), so each image sets one shared stream with `set_random_state`.
"""

import inspect
import random
import warnings

import albumentations as A
import cv2
import numpy as np

from src.data.augmentations import build_transforms
from src.data.decode import resize_image
from src.errors import UserError, listing, nearest

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
        decode_size: (height, width) that decoding need not exceed; None: the image's own size is wanted.
        num_views: pictures that a call returns: 1, or 3 where there is a `view_transform`.
    """

    def __init__(self, image_size, transforms=(), source_size=None, view_transform=None):
        self.image_size = tuple(image_size)
        self.source_size = source_size
        self.decode_size = source_size if transforms else self.image_size
        self.num_views = 1 if view_transform is None else 3
        self._pipeline = A.Compose(list(transforms)) if transforms else None
        self._view_transform = view_transform

    def __call__(self, image, seed):
        """Return the image as (*image_size, C) of the same dtype; or its three views as (3, *image_size, C): what the
        transforms make of it, and two that `view_transform` makes of that picture.

        Args:
            image: (H, W, C) uint8 or float32.
            seed: int >= 0; decides all that is random.
        """
        if self._pipeline is None and self._view_transform is None:
            return np.ascontiguousarray(resize_image(image, self.image_size))
        stream = np.random.default_rng(seed), random.Random(seed)
        if self._pipeline is not None:
            image = resize_image(image, self.source_size) if self.source_size else _cover(image, self.image_size)
            self._pipeline.set_random_state(*stream)
            image = self._pipeline(image=image)["image"]
        image = np.ascontiguousarray(resize_image(image, self.image_size))
        if self._view_transform is None:
            return image
        self._view_transform.set_random_state(*stream)
        return np.stack([image] + [self._view_transform(image=image)["image"] for _ in range(2)])

    def describe(self):
        """Return one line for each transform, in order: its probability, its name, and what is not its default."""
        views = [] if self._view_transform is None else [self._view_transform]
        return list(_describe([*(self._pipeline or ()), *views]))


def build_resize(image_size):
    """Return the Augmentation of validation and test: a plain resize, by area when shrinking, else linear."""
    return Augmentation(image_size)


def build_augmentation(settings, image_size, channels, is_uint8):
    """Return the Augmentation of training images.

    Transforms work on the image at image_size, where they are cheap; a crop by setting sees 1.25 times that size. Own
    transforms, of which any crops, pads or resizes, see the image at its own size.

    Args:
        settings: src.config.settings.Augment.
        image_size: (height, width).
        channels: of the images.
        is_uint8: whether their pixels are 8-bit.

    Raises:
        UserError: a transform's name, argument or value is wrong, or it does not keep what the network needs; or the
            settings ask for what such images cannot have.
    """
    image_size = tuple(image_size)
    if settings.transforms is not None:
        transforms = [_build_transform(entry) for entry in settings.transforms]
        changes_size = any(word in name for name in _names(transforms) for word in _CHANGE_SIZE)
        probe = np.full((*image_size, channels), 128, np.uint8 if is_uint8 else np.float32)
        for transform in transforms:
            probe = _check_output(transform, probe)
        return Augmentation(image_size, transforms, None if changes_size else image_size)
    if settings.preset != "none" and settings.flips == "d4" and image_size[0] != image_size[1]:
        raise UserError(
            f"augment.flips=d4: needs square pictures, image_size is {list(image_size)}; set augment.flips=hvflip"
        )
    transforms = build_transforms(settings, image_size, channels, is_uint8)
    view_transform = transforms.pop() if settings.augmix_consistency else None  # AugMix comes last
    scale = 1.25 if "RandomResizedCrop" in _names(transforms) else 1
    return Augmentation(image_size, transforms, tuple(round(side * scale) for side in image_size), view_transform)


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


def _describe(transforms, indent=""):
    for one in transforms:
        defaults = inspect.signature(type(one)).parameters
        told = {name: getattr(one, name) for name in defaults if name not in ("p", "transforms") and hasattr(one, name)}
        told = [f"{name}={_short(value)}" for name, value in told.items() if value != defaults[name].default]
        yield f"{indent}p={one.p:.2f} {type(one).__name__} {' '.join(told)}".rstrip()
        yield from _describe(getattr(one, "transforms", ()), indent + "  ")


def _short(value):
    """A value without spaces, floats with four digits at most."""
    if isinstance(value, (tuple, list)):
        return f"({','.join(_short(one) for one in value)})"
    if isinstance(value, dict):  # an Affine has the same for both axes
        return " ".join(dict.fromkeys(_short(one) for one in value.values()))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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


def _cover(image, size):
    """Enlarge an image that is smaller than `size` in an axis, keeping its proportions."""
    factor = max(size[0] / image.shape[0], size[1] / image.shape[1])
    return image if factor <= 1 else resize_image(image, tuple(round(side * factor) for side in image.shape[:2]))

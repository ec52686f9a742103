"""From settings to a pipeline whose output depends on (image, seed) and nothing else.

albumentations 2.0.8 repeats its random numbers in loader workers, and its `set_random_seed` gives every transform the
same ones (a horizontal and a vertical flip then always come together): each image sets one shared stream instead.
"""

import inspect
import random
import warnings

import albumentations as A
import cv2
import numpy as np
import torch

from src.data.augmentations import AugMix, build_transforms
from src.data.decode import resize_image
from src.data.device_augmentations import DeviceAugmentation, choose_for_device
from src.errors import UserError, first_line, listing, nearest

_COMPOSITES = {"OneOf": A.OneOf, "SomeOf": A.SomeOf, "Sequential": A.Sequential, "RandomOrder": A.RandomOrder}
_TRANSFORMS = _COMPOSITES | {
    name: one for name, one in vars(A).items()
    if inspect.isclass(one) and issubclass(one, (A.ImageOnlyTransform, A.DualTransform))
    and not issubclass(one, (A.Transform3D, A.Lambda))  # a function cannot be written in YAML
    and one not in (A.ImageOnlyTransform, A.DualTransform)
}  # fmt: skip
_CHANGE_SIZE = ("Crop", "Resize", "MaxSize", "Pad", "RandomScale")


class Augmentation:
    """Brings an image to `image_size` and applies transforms on the way; can be pickled.

    Attributes:
        source_size: (height, width) the image is resized to before the transforms; None: its own, but enlarged to
            cover image_size where it is smaller, so that a crop of that size always fits.
        channels: of an image; one that has more is several, which all get the same draw.
        decode_size: (height, width) that decoding need not exceed; None: the image's own size is wanted.
        num_views: images that a call returns: 1, or 3 where there is a `view_transform`.
        transforms: list of albumentations', in order, the `view_transform` last.
        on_device: DeviceAugmentation, of what comes after `load`; None: nothing.
    """

    def __init__(
        self, image_size, transforms=(), source_size=None, view_transform=None, resize="squash", channels=None,
        on_device=None,
    ):  # fmt: skip
        self.image_size, self.source_size, self.resize = tuple(image_size), source_size, resize
        self.channels, self.on_device = channels, on_device
        self.decode_size = source_size if transforms or on_device else self.image_size
        self.num_views = 1 if view_transform is None else 3
        self._pipeline = A.Compose(list(transforms)) if transforms else None
        self._view_transform = view_transform
        self.transforms = [*transforms, *filter(None, [view_transform]), *(on_device.transforms if on_device else ())]

    def __call__(self, image, seed):
        """Return an image (H, W, C), uint8 or float32, as (*image_size, C) of the same dtype.

        Of several views (3, *image_size, C): that, and two images that view_transform makes of it.
        """
        image = self.load(image, seed)
        if self.on_device is None:
            return image
        draws = self.on_device.draw(seed)
        return self.on_device(torch.from_numpy(image[None]), torch.from_numpy(draws[None]))[0].numpy()

    def load(self, image, seed):
        """Return what the loader makes of an image: all that __call__ does, or that of `source_size` for on_device."""
        final_size = self.source_size if self.on_device else self.image_size
        if self._pipeline is None and self._view_transform is None:
            return np.ascontiguousarray(resize_image(image, final_size, self.resize))
        if self.channels is not None and image.shape[2] > self.channels:
            starts = range(0, image.shape[2], self.channels)
            parts = (np.ascontiguousarray(image[..., start : start + self.channels]) for start in starts)
            return np.concatenate([self.load(part, seed) for part in parts], axis=-1)
        seed = seed + 1 if self.on_device else seed  # not the random numbers that on_device draws
        stream = np.random.default_rng(seed), random.Random(seed)
        if self._pipeline is not None:
            size, resize, (height, width) = self.source_size, self.resize, image.shape[:2]
            if size is None:
                factor = max(1, self.image_size[0] / height, self.image_size[1] / width)
                size, resize = (round(height * factor), round(width * factor)), "squash"
            self._pipeline.set_random_state(*stream)
            image = self._pipeline(image=resize_image(image, size, resize))["image"]
        image = np.ascontiguousarray(resize_image(image, final_size, self.resize))
        if self._view_transform is None:
            return image
        self._view_transform.set_random_state(*stream)
        return np.stack([image] + [self._view_transform(image=image)["image"] for _ in range(2)])


def build_resize(config):
    """Return the Augmentation of validation and test: a plain resize, as config.resize says."""
    return Augmentation(config.image_size, resize=config.resize)


def build_augmentation(config, is_uint8):
    """Return the Augmentation of training images, 8-bit or not, that a config.settings.Config asks for.

    Transforms work on the image at image_size, where they are cheap; a crop sees 1.25 times that size. Own transforms,
    of which any crops, pads or resizes, see the image at its own size.
    """
    settings, image_size, channels = config.augment, tuple(config.image_size), config.competition.network_channels
    is_own = settings.transforms is not None
    if is_own:
        where, transforms = "augment.transforms", [_build_transform(entry) for entry in settings.transforms]
    else:
        where, transforms = "augment.kwargs", build_transforms(settings, image_size, channels, is_uint8)
    probe = np.full((*image_size, channels), 128, np.uint8 if is_uint8 else np.float32)
    for transform in transforms:
        probe = _check_output(where, transform, probe)
    view_transform = next((one for one in transforms if settings.augmix_consistency and isinstance(one, AugMix)), None)
    transforms = [one for one in transforms if one is not view_transform]
    changes_size = any(word in type(one).__name__ for one in _list_nested(transforms) for word in _CHANGE_SIZE)
    source_size = tuple(round(side * (1.25 if changes_size else 1)) for side in image_size)
    source_size = None if is_own and changes_size else source_size
    how = source_size, view_transform, config.resize, channels
    if settings.place != "device":
        return Augmentation(image_size, transforms, *how)
    transforms, moved = choose_for_device(transforms)
    on_device = DeviceAugmentation(moved, source_size, image_size, channels) if moved else None
    return Augmentation(image_size, transforms, *how, on_device)


def _build_transform(entry):
    """Build one entry of augment.transforms: "Name" or {Name: {argument: value}}; composites nest."""
    where, entry = "augment.transforms", {entry: {}} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or len(entry) != 1 or not isinstance(next(iter(entry.values())) or {}, dict):
        raise UserError(f"{where}: cannot read {entry}; write for example [{{Rotate: {{limit: 10, p: 0.5}}}}]")
    [(name, arguments)] = entry.items()
    if name in ("ToTensorV2", "ToTensor3D", "ToTensor"):
        raise UserError(f"{where}: {name} is not needed, images become tensors later; leave it out")
    if name not in _TRANSFORMS:
        raise UserError(f"{where}: albumentations has no {name}{nearest(name, _TRANSFORMS)}")
    known, arguments = list(inspect.signature(_TRANSFORMS[name]).parameters), dict(arguments or {})
    for key, value in arguments.items():
        if key not in known:
            raise UserError(f"{where}: {name} has no {key} (it has {listing(known, 20)}){nearest(key, known)}")
        if str(value).startswith(("BORDER_", "INTER_")):  # OpenCV's constants
            arguments[key] = getattr(cv2, value, value)
    if name in _COMPOSITES:
        arguments["transforms"] = [_build_transform(one) for one in arguments.get("transforms") or []]
        if not arguments["transforms"]:
            raise UserError(f"{where}: {name} is empty; give it transforms: [...]")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # albumentations ignores what it warns about
            return _TRANSFORMS[name](**arguments)
    except Exception as error:
        reason = first_line(error)
        if hasattr(error.__cause__, "errors"):  # pydantic's
            first = error.__cause__.errors()[0]
            key = "".join(map(str, first["loc"][:1]))
            value = f"{key}={arguments[key]}: " if key in arguments else f"{key}: " if key else ""
            reason = value + first["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}: {name}: {reason}") from None


def _list_nested(transforms):
    """Yield each transform and those within it."""
    for one in transforms:
        yield one
        yield from _list_nested(getattr(one, "transforms", ()))


def _check_output(where, transform, image):
    """Apply a transform, and each one within, to a plain image, so that it fails before the first epoch if at all."""
    seen = image
    for child in getattr(transform, "transforms", ()):
        seen = _check_output(where, child, seen if isinstance(transform, A.Sequential) else image)
    name = type(transform).__name__
    transform.set_random_state(np.random.default_rng(0), random.Random(0))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            output = transform(image=image, force_apply=True)["image"]
    except Exception as error:
        raise UserError(f"{where}: {name} fails on {image.dtype} {image.shape}: {first_line(error)}") from None
    if not isinstance(output, np.ndarray) or output.dtype != image.dtype or output.shape[2:] != image.shape[2:]:
        found = f"does not keep {image.dtype} pixels of {image.shape[2]} channels"
        raise UserError(f"{where}: {name} {found}; leave it out (pixels are normalised later, on the device)")
    return output

"""Every augmentation by name, and the presets that combine them.

A new one is an entry in AUGMENTATIONS, switched on by augment.kwargs={name: strength}. What is random in a transform of
our own comes from its `random_generator`, which `transforms.Augmentation` sets for each image.
"""

import inspect

import albumentations as A
import cv2
import numpy as np
import torch
from PIL import Image

from src.config.registry import check_kwargs
from src.errors import UserError


class _Torchvision(A.ImageOnlyTransform):
    """A transform of torchvision.transforms.v2, by its name, for uint8 images of 1 or 3 channels."""

    def __init__(self, name, p, **arguments):
        super().__init__(p=p)
        from torchvision.transforms import v2  # here, as it takes a second that other augmentations need not wait for

        self._transform = getattr(v2, name)(**arguments)

    def apply(self, img, **params):
        image, num_threads = Image.fromarray(img[..., 0] if img.shape[2] == 1 else img), torch.get_num_threads()
        seed = int(self.random_generator.integers(2**63))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs as well
            torch.set_num_threads(1)  # as in a loader worker; several on busy cores take 20 times as long
            try:
                return np.array(self._transform(image)).reshape(img.shape)
            finally:
                torch.set_num_threads(num_threads)


class RandAugment(_Torchvision):
    """Two random operations of torchvision's fourteen; magnitude 0 to 10 is its bin 0 to 30.

    Reference: Cubuk et al., RandAugment: Practical automated data augmentation with a reduced search space, 2019,
    arXiv:1909.13719, fig. 2. torchvision departs in that a larger magnitude never changes an image less.
    """

    def __init__(self, magnitude, p=1.0):
        super().__init__("RandAugment", p, magnitude=round(3 * magnitude), interpolation=Image.BILINEAR)
        self.magnitude = magnitude


class AugMix(_Torchvision):
    """torchvision's AugMix, with the paper's nine operations; severity 0 to 10 is its 1 to 10.

    Reference: Hendrycks et al., AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty, 2019,
    arXiv:1912.02781, algorithm 1, with k = 3 and alpha = 1.
    """

    def __init__(self, severity, p=1.0):
        super().__init__("AugMix", p, severity=1 + round(0.9 * severity), all_ops=False)
        self.severity = severity


class Cutout(A.ImageOnlyTransform):
    """One black square anywhere, clipped at the border; black is 0, for pixels that are not 8-bit their least value.

    Reference: DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017,
    arXiv:1708.04552, section 3.
    """

    def __init__(self, side, p=0.5):
        super().__init__(p=p)
        self.side = side

    def get_params_dependent_on_data(self, params, data):
        height, width = params["shape"][:2]
        side = round(self.side * min(height, width))
        top, left = self.random_generator.integers((height, width)) - side // 2
        left, top, right, bottom = (max(int(one), 0) for one in (left, top, left + side, top + side))
        return {"holes": [(left, top, right, bottom)]}

    def apply(self, img, holes, **params):
        left, top, right, bottom = holes[0]
        img, black = img.copy(), 0 if img.dtype == np.uint8 else img.min()
        img[top:bottom, left:right] = black
        return img


class RandomErasing(A.ImageOnlyTransform):
    """One rectangle of random pixels in a share p of the images: .02 to .4 of the area, height over width .3 to 3.3.

    Reference: Zhong et al., Random Erasing Data Augmentation, 2017, arXiv:1708.04896, algorithm 1, which A.Erasing
    departs from in area and aspect. Here the place is drawn where the rectangle fits.
    """

    def get_params_dependent_on_data(self, params, data):
        rng, (height, width) = self.random_generator, params["shape"][:2]
        for _ in range(100):  # most fit the first time
            area, aspect = rng.uniform(0.02, 0.4) * height * width, rng.uniform(0.3, 1 / 0.3)
            tall, wide = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if 0 < tall <= height and 0 < wide <= width:
                break
        else:
            return {"holes": [(0, 0, 0, 0)]}
        top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
        return {"holes": [(left, top, left + wide, top + tall)]}

    def apply(self, img, holes, **params):
        (left, top, right, bottom), rng = holes[0], self.random_generator
        shape, is_uint8, img = (bottom - top, right - left, img.shape[2]), img.dtype == np.uint8, img.copy()
        pixels = rng.integers(0, 256, shape, np.uint8) if is_uint8 else rng.uniform(img.min(), img.max(), shape)
        img[top:bottom, left:right] = pixels
        return img


# name -> function of the strength, or of (strength, image_size), that returns a transform; applied in this order
AUGMENTATIONS = {
    "crop": lambda share, image_size: A.RandomResizedCrop(  # of at least this share of the area
        image_size, scale=(share, 1.0), ratio=(0.8, 1.25), area_for_downscale="image"
    ),
    # these three are arguments of one A.Affine, as each warp of its own would blur the image
    "rotate": lambda degrees: {"rotate": (-degrees, degrees)},
    "translate": lambda share: {"translate_percent": {"x": (-share, share), "y": (-share, share)}},  # of each side
    "scale": lambda factors: {"scale": factors},  # [smallest, largest]
    "stretch": lambda factor: A.Affine(  # other proportions: the width times 1 / factor to factor
        scale={"x": (1 / factor, factor), "y": (1, 1)}, border_mode=cv2.BORDER_REFLECT_101, p=0.9
    ),
    "brightness": lambda share: A.RandomBrightnessContrast(share, share, p=0.5),
    "colour": lambda share: A.HueSaturationValue(100 * share, 250 * share, 150 * share, p=0.5),  # of 180, 256, 256
    "blur": lambda sigma: A.GaussianBlur(sigma_limit=(sigma / 3, sigma)),  # pixels; an image gets blur or noise
    "noise": lambda std: A.GaussNoise(std_range=(std / 4, std)),  # a share of the range
    "rand_augment": RandAugment,
    # a square of this share of the shorter side; of (smallest, largest) a rectangle
    "cutout": lambda side: A.CoarseDropout((1, 1), side, side, p=0.5) if isinstance(side, tuple) else Cutout(side),
    "erasing": RandomErasing,
    "augmix": AugMix,
}
PRESETS = {
    "none": {},
    "light": {"rotate": 7, "translate": 0.05, "scale": (0.9, 1.1)},
    "medium": {"rotate": 15, "translate": 0.08, "scale": (0.85, 1.2), "brightness": 0.2},
    "heavy": {
        "crop": 0.5, "rotate": 30, "translate": 0.1, "scale": (0.8, 1.2), "brightness": 0.3, "colour": 0.1, "blur": 1.5,
        "noise": 0.08, "cutout": (0.2, 0.375),
    },
}  # fmt: skip
FLIPS = {  # name -> classes of transforms
    "none": (), "hflip": (A.HorizontalFlip,), "vflip": (A.VerticalFlip,), "hvflip": (A.HorizontalFlip, A.VerticalFlip),
    "d4": (A.D4,),
}  # fmt: skip
_AFFINE_P, _BRIGHTNESS_P = {"light": 0.7, "heavy": 0.7}, {"heavy": 0.7}  # shares of images by preset; else .9 and .5
_RANGES = {  # smallest and largest strength of augment.kwargs
    "crop": (0.01, 1), "rotate": (0, 180), "translate": (0, 1), "scale": (0.001, 10), "stretch": (1, 10),
    "brightness": (0, 1), "colour": (0, 1), "blur": (0, 20), "noise": (0, 1), "rand_augment": (0, 10), "cutout": (0, 1),
    "erasing": (0, 1), "augmix": (0, 10),
}  # fmt: skip
_OFF = {"crop": 1, "scale": (1, 1), "stretch": 1}  # strengths that do nothing; else 0
_NEEDS_8_BIT = ("brightness", "colour", "blur", "noise", "rand_augment", "augmix")


def build_transforms(settings, image_size, channels, is_uint8):
    """Return the transforms that settings.Augment asks for, in the order they are applied; preset=none has no flips.

    What images of these channels, 8-bit or not, cannot have is refused in augment.kwargs, and left out of a preset.
    """
    preset, flips = settings.preset, FLIPS[settings.flips] if settings.preset != "none" else ()
    if A.D4 in flips and image_size[0] != image_size[1]:
        found = f"needs square images, image_size is {list(image_size)}"
        raise UserError(f"augment.flips={settings.flips}: {found}; set augment.flips=hvflip")
    transforms, warp = {}, {"rotate": (0, 0), "translate_percent": {"x": (0, 0), "y": (0, 0)}, "scale": (1, 1)}
    for name, strength in _choose_strengths(settings, channels, is_uint8).items():
        function = AUGMENTATIONS[name]
        takes_size = "image_size" in inspect.signature(function).parameters
        one = function(strength, image_size) if takes_size else function(strength)
        if isinstance(one, dict):
            name, warp, p = "affine", warp | one, _AFFINE_P.get(preset, 0.9)
            one = A.Affine(**warp, keep_ratio=True, border_mode=cv2.BORDER_REFLECT_101, p=p)
        elif name in ("blur", "noise"):
            blurs = transforms["blur"].transforms if "blur" in transforms else []
            name, one = "blur", A.OneOf([*blurs, one], p=0.3)
        elif name == "brightness":
            one.p = _BRIGHTNESS_P.get(preset, one.p)
        transforms[name] = one
    first = [transforms.pop(name) for name in ("crop", "affine") if name in transforms]
    return [*first, *(flip() for flip in flips), *transforms.values()]


def _choose_strengths(settings, channels, is_uint8):
    """Return {name: strength} of what such images get, in the order of AUGMENTATIONS."""
    asked = {name: strength for name, strength in settings.kwargs.items() if strength is not None}
    known = {name: (1.0, 1.0) if name == "scale" else None for name in AUGMENTATIONS}
    check_kwargs("augment.kwargs", known, asked, "augment", **_RANGES)
    scale = list(asked.get("scale", known["scale"]))
    if len(scale) != 2 or None in scale or scale != sorted(scale):
        raise UserError(f"augment.kwargs.scale={scale}: must be [smallest, largest], for example [0.8, 1.25]")
    chosen, strengths = {}, PRESETS[settings.preset] | asked
    for name in AUGMENTATIONS:
        strength, fault = strengths.get(name, 0), None
        strength = tuple(strength) if isinstance(strength, list) else strength
        needs_8_bit = name in _NEEDS_8_BIT or (name == "cutout" and isinstance(strength, tuple))
        if needs_8_bit and not (is_uint8 and channels in (1, 3)):
            fault = "needs 8-bit images of 1 or 3 channels"
        elif name == "colour" and channels == 1:
            fault = "grey images have no colour"
        if strength in (0, _OFF.get(name)):
            continue
        if fault and name in asked:
            raise UserError(f"augment.kwargs.{name}={strength}: {fault}; leave it out")
        if not fault:
            chosen[name] = strength
    return chosen

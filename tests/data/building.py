"""What the tests of augmentations.py and transforms.py share: an image, the choices there are, and how one is built."""

import cv2
import numpy as np

from src.config.settings import Augment, Competition, Config
from src.data.inspection import describe_transforms
from src.data.transforms import Augmentation, build_augmentation

RNG = np.random.default_rng(0)
IMAGE = cv2.resize(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8), (96, 72), interpolation=cv2.INTER_CUBIC)
FLIPS = ("none", "hflip", "vflip", "hvflip", "d4")
PRESETS = ("light", "medium", "heavy")


def build(size=(48, 48), channels=3, is_uint8=True, preset="medium", flips="hflip", **kwargs):
    return augmentation(Augment(preset=preset, flips=flips, kwargs=kwargs), size, channels, is_uint8)


def augmentation(settings, size=(48, 48), channels=3, is_uint8=True, **others):
    config = Config(augment=settings, image_size=size, competition=Competition(channels=channels), **others)
    return build_augmentation(config, is_uint8)


def resizing(size):
    """The resize of validation."""
    return Augmentation(size)


def describe(augment):
    return describe_transforms(augment.transforms)


def names(augment):
    return " ".join(line.split()[1] for line in describe(augment))

"""What the tests of augmentations.py and transforms.py share: an image, the choices there are, and how one is built."""

import cv2
import numpy as np

from src.config.settings import Augment
from src.data.transforms import build_augmentation

RNG = np.random.default_rng(0)
IMAGE = cv2.resize(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8), (96, 72), interpolation=cv2.INTER_CUBIC)
FLIPS = ("none", "hflip", "vflip", "hvflip", "d4")
PRESETS = ("light", "medium", "heavy")


def build(size=(48, 48), channels=3, is_uint8=True, preset="medium", flips="hflip", **kwargs):
    return build_augmentation(Augment(preset=preset, flips=flips, kwargs=kwargs), size, channels, is_uint8)


def names(augment):
    return " ".join(line.split()[1] for line in augment.describe())

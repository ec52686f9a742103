"""Cutout and Random Erasing as their papers have them, which albumentations' own differ from.

All that is random comes from the transform's own `random_generator`; see `policies`.
"""

import albumentations as A
import numpy as np

_ERASED_SHARE, _ERASED_ASPECT = (0.02, 0.4), (0.3, 1 / 0.3)


class Cutout(A.ImageOnlyTransform):
    """One black square anywhere; what lies outside the picture is cut off.

    Args:
        side: of the square, a share of the picture's shorter side.
        p: share of images that it is applied to.

    Reference: DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017,
    arXiv:1708.04552, section 3. Black is 0, for pixels that are not 8-bit the picture's least value.
    """

    def __init__(self, side, p=0.5):
        super().__init__(p=p)
        self.side = side

    def apply(self, img, **params):
        height, width = img.shape[:2]
        side = round(self.side * min(height, width))
        top, left = self.random_generator.integers((height, width)) - side // 2
        img = img.copy()
        img[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = (
            0 if img.dtype == np.uint8 else img.min()
        )
        return img


class RandomErasing(A.ImageOnlyTransform):
    """One rectangle of random pixels: .02 to .4 of the area, height over width from .3 to 3.3.

    A.Erasing is not used, as it never erases more than .3 of a square picture, with aspects that are not the paper's.

    Args:
        p: share of images that it is applied to.

    Reference: Zhong et al., Random Erasing Data Augmentation, 2017, arXiv:1708.04896, algorithm 1. Departures: the
    place is drawn where the rectangle fits; pixels that are not 8-bit are drawn between the picture's least and largest
    value.
    """

    def __init__(self, p=0.5):
        super().__init__(p=p)

    def apply(self, img, **params):
        rng = self.random_generator
        height, width, channels = img.shape
        for _ in range(100):  # most fit the first time
            area, aspect = rng.uniform(*_ERASED_SHARE) * height * width, rng.uniform(*_ERASED_ASPECT)
            tall, wide = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if 0 < tall <= height and 0 < wide <= width:
                break
        else:
            return img
        top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
        shape = (tall, wide, channels)
        is_uint8 = img.dtype == np.uint8
        noise = rng.integers(0, 256, shape, np.uint8) if is_uint8 else rng.uniform(img.min(), img.max(), shape)
        img = img.copy()
        img[top : top + tall, left : left + wide] = noise
        return img

"""RandAugment and AugMix, which albumentations lacks.

The idea to know: all that is random comes from the transform's own `random_generator`, which `augment.Augmentation`
sets anew for each image, so that a picture depends on (image, seed) alone, in any process.
"""

import albumentations as A
import cv2
import numpy as np

_NUM_OPERATIONS = 2  # of RandAugment, for each image
_NUM_CHAINS, _MAX_DEPTH = 3, 3  # of AugMix
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


class RandAugment(A.ImageOnlyTransform):
    """Two random operations of fourteen, all at one magnitude; for uint8 pictures of 1 or 3 channels.

    Args:
        magnitude: 0 to 10; 10 rotates by 30 degrees, shears by .3, shifts by .45 of the side, keeps 4 bits, inverts all
            pixels, and changes colour, contrast, brightness and sharpness by .9. Signs are random.
        p: share of images that it is applied to.

    Reference: Cubuk et al., RandAugment: Practical automated data augmentation with a reduced search space, 2019,
    arXiv:1909.13719, fig. 2. Departures: the border mirrors the picture, and a larger magnitude never changes it less
    (there, enhancement goes from a factor of .1 at magnitude 0 over none to 1.9).
    """

    def __init__(self, magnitude, p=1.0):
        super().__init__(p=p)
        self.magnitude = magnitude

    def apply(self, img, **params):
        for _ in range(_NUM_OPERATIONS):
            img = _apply_any(_RANDAUGMENT, img, self.magnitude / 10, self.random_generator)
        return img


class AugMix(A.ImageOnlyTransform):
    """Three chains of one to three operations, averaged and blended into the picture; for uint8, 1 or 3 channels.

    Args:
        severity: up to 10; each operation's strength is drawn from .1 to this.
        p: share of images that it is applied to.

    Reference: Hendrycks et al., AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty, 2019,
    arXiv:1912.02781, algorithm 1, with k = 3 and alpha = 1. Departures: the border mirrors the picture, and pictures
    are blended as pixels, rounded to uint8, before they are normalised.
    """

    def __init__(self, severity, p=1.0):
        super().__init__(p=p)
        self.severity = severity

    def apply(self, img, **params):
        rng = self.random_generator
        weights, share = rng.dirichlet(np.ones(_NUM_CHAINS)), rng.beta(1, 1)
        mixed = np.zeros(img.shape)
        for weight in weights:
            chain = img
            for _ in range(rng.integers(1, _MAX_DEPTH + 1)):
                level = rng.uniform(min(0.1, self.severity), self.severity)
                chain = _apply_any(_AUGMIX, chain, level / 10, rng)
            mixed += weight * chain
        return np.rint((1 - share) * img + share * mixed).astype(img.dtype)


def _apply_any(operations, image, share, rng):
    """Apply one of the operations, with a random sign where it has one.

    Args:
        share: 0 to 1, of the way from an operation's weakest to its strongest.
    """
    function, weakest, strongest, has_sign = list(operations.values())[rng.integers(len(operations))]
    amount = weakest + share * (strongest - weakest)
    return function(image, -amount if has_sign and rng.random() < 0.5 else amount)


def _identity(image, _):
    return image


def _autocontrast(image, _):
    """Stretch each channel to the whole range; one that is the same everywhere stays."""
    low, high = image.min(axis=(0, 1)).astype(np.float32), image.max(axis=(0, 1)).astype(np.float32)
    is_flat = low == high
    factor = np.where(is_flat, 1, 255 / np.where(is_flat, 1, high - low))
    return np.rint((image - np.where(is_flat, 0, low)) * factor).astype(np.uint8)


def _equalize(image, _):
    channels = [cv2.equalizeHist(np.ascontiguousarray(image[..., channel])) for channel in range(image.shape[2])]
    return np.stack(channels, axis=2)


def _solarize(image, amount):
    """Invert the pixels of at least 256 - amount."""
    return np.where(image >= 256 - amount, 255 - image, image)


def _posterize(image, bits):
    """Drop the low bits, of which there are eight."""
    return image & np.uint8(256 - (1 << int(bits)))


def _rotate(image, degrees):
    height, width = image.shape[:2]
    return _warp(image, cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1))


def _shear_x(image, share):
    return _warp(image, np.array([[1, share, -share * (image.shape[0] - 1) / 2], [0, 1, 0]]))


def _shear_y(image, share):
    return _warp(image, np.array([[1, 0, 0], [share, 1, -share * (image.shape[1] - 1) / 2]]))


def _translate_x(image, share):
    return _warp(image, np.array([[1, 0, share * image.shape[1]], [0, 1, 0]]))


def _translate_y(image, share):
    return _warp(image, np.array([[1, 0, 0], [0, 1, share * image.shape[0]]]))


def _colour(image, change):
    if image.shape[2] == 1:
        return image
    return _move_away(image, cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), change)


def _contrast(image, change):
    return _move_away(image, np.full_like(image, round(image.mean())), change)


def _brightness(image, change):
    return _move_away(image, np.zeros_like(image), change)


def _sharpness(image, change):
    return _move_away(image, cv2.filter2D(image, -1, _SMOOTH).reshape(image.shape), change)


def _move_away(image, other, change):
    """Move the picture away from another one (change > 0) or towards it; -1 arrives there."""
    return cv2.addWeighted(image, 1 + change, other, -change, 0).reshape(image.shape)


def _warp(image, matrix):
    size = image.shape[1::-1]
    return cv2.warpAffine(image, matrix, size, borderMode=cv2.BORDER_REFLECT_101).reshape(image.shape)


# name: (function, its weakest and strongest amount, whether the sign is random)
_SHARED = {
    "autocontrast": (_autocontrast, 0, 0, False),
    "equalize": (_equalize, 0, 0, False),
    "rotate": (_rotate, 0, 30, True),
    "solarize": (_solarize, 0, 256, False),
    "shear_x": (_shear_x, 0, 0.3, True),
    "shear_y": (_shear_y, 0, 0.3, True),
}
_RANDAUGMENT = _SHARED | {
    "identity": (_identity, 0, 0, False),
    "posterize": (_posterize, 0, 4, False),
    "translate_x": (_translate_x, 0, 0.45, True),
    "translate_y": (_translate_y, 0, 0.45, True),
    "colour": (_colour, 0, 0.9, True),
    "contrast": (_contrast, 0, 0.9, True),
    "brightness": (_brightness, 0, 0.9, True),
    "sharpness": (_sharpness, 0, 0.9, True),
}
_AUGMIX = _SHARED | {
    "posterize": (_posterize, 4, 8, False),
    "translate_x": (_translate_x, 0, 1 / 3, True),
    "translate_y": (_translate_y, 0, 1 / 3, True),
}

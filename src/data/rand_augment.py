"""RandAugment and AugMix, which albumentations lacks, for uint8 images of 1 or 3 channels."""

import albumentations as A
import cv2
import numpy as np

_SMOOTHING = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


class RandAugment(A.ImageOnlyTransform):
    """Two random operations of fourteen, all at one magnitude, 0 to 10: see _RANDAUGMENT for what 10 means.

    Reference: Cubuk et al., RandAugment: Practical automated data augmentation with a reduced search space, 2019,
    arXiv:1909.13719, fig. 2. Departures: the border mirrors the image, and a larger magnitude never changes it less
    (there, enhancement goes from a factor of .1 at magnitude 0 over none to 1.9).
    """

    def __init__(self, magnitude, p=1.0):
        super().__init__(p=p)
        self.magnitude = magnitude

    def apply(self, img, **params):
        for _ in range(2):
            img = _apply_any(_RANDAUGMENT, img, self.magnitude / 10, self.random_generator)
        return img


class AugMix(A.ImageOnlyTransform):
    """Three chains of one to three operations, averaged and blended into the image; strengths from .1 to `severity`.

    Reference: Hendrycks et al., AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty, 2019,
    arXiv:1912.02781, algorithm 1, with k = 3 and alpha = 1. Departures: the border mirrors the image, and images are
    blended as pixels, rounded to uint8, before they are normalised.
    """

    def __init__(self, severity, p=1.0):
        super().__init__(p=p)
        self.severity = severity

    def apply(self, img, **params):
        rng = self.random_generator
        weights, share, mixed = rng.dirichlet(np.ones(3)), rng.beta(1, 1), np.zeros(img.shape)
        for weight in weights:
            chain = img
            for _ in range(rng.integers(1, 4)):
                level = rng.uniform(min(0.1, self.severity), self.severity)
                chain = _apply_any(_AUGMIX, chain, level / 10, rng)
            mixed += weight * chain
        return np.rint((1 - share) * img + share * mixed).astype(img.dtype)


def _apply_any(operations, image, share, rng):
    """Apply a random operation at a share, 0 to 1, of the way from its weakest to its strongest amount."""
    function, weakest, strongest, has_sign = list(operations.values())[rng.integers(len(operations))]
    amount = weakest + share * (strongest - weakest)
    return function(image, -amount if has_sign and rng.random() < 0.5 else amount)


def _autocontrast(image, _):
    """Stretch each channel to the whole range; a constant one stays."""
    low, high = image.min(axis=(0, 1)).astype(np.float32), image.max(axis=(0, 1)).astype(np.float32)
    is_flat = low == high
    factor = np.where(is_flat, 1, 255 / np.where(is_flat, 1, high - low))
    return np.rint((image - np.where(is_flat, 0, low)) * factor).astype(np.uint8)


def _equalize(image, _):
    return np.stack([cv2.equalizeHist(channel) for channel in np.ascontiguousarray(image.transpose(2, 0, 1))], axis=2)


def _posterize(image, bits):
    """Drop the low bits, of which there are eight."""
    return image & np.uint8(256 - (1 << int(bits)))


def _rotate(image, degrees):
    height, width = image.shape[:2]
    return _warp(image, cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1))


def _warp(image, matrix):
    size, matrix = image.shape[1::-1], np.reshape(matrix, (2, 3))
    return cv2.warpAffine(image, matrix, size, borderMode=cv2.BORDER_REFLECT_101).reshape(image.shape)


def _enhance(find_other):
    """Return the operation that moves an image away from another one (change > 0) or towards it; -1 arrives there."""
    return lambda image, change: cv2.addWeighted(image, 1 + change, find_other(image), -change, 0).reshape(image.shape)


def _grey(image):
    return image if image.shape[2] == 1 else cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


# name: (function, its weakest and strongest amount, whether the sign is random)
_SHARED = {
    "autocontrast": (_autocontrast, 0, 0, False),
    "equalize": (_equalize, 0, 0, False),
    "rotate": (_rotate, 0, 30, True),  # degrees
    "solarize": (lambda image, amount: np.where(image >= 256 - amount, 255 - image, image), 0, 256, False),
    "shear_x": (lambda image, share: _warp(image, [1, share, -share * (len(image) - 1) / 2, 0, 1, 0]), 0, 0.3, True),
    "shear_y": (lambda image, share: _warp(image, [1, 0, 0, share, 1, -share * (len(image[0]) - 1) / 2]), 0, 0.3, True),
}
_RANDAUGMENT = _SHARED | {
    "identity": (lambda image, _: image, 0, 0, False),
    "posterize": (_posterize, 0, 4, False),  # bits
    "translate_x": (lambda image, share: _warp(image, [1, 0, share * image.shape[1], 0, 1, 0]), 0, 0.45, True),
    "translate_y": (lambda image, share: _warp(image, [1, 0, 0, 0, 1, share * image.shape[0]]), 0, 0.45, True),
    "colour": (_enhance(_grey), 0, 0.9, True),
    "contrast": (_enhance(lambda image: np.full_like(image, round(image.mean()))), 0, 0.9, True),
    "brightness": (_enhance(np.zeros_like), 0, 0.9, True),
    "sharpness": (_enhance(lambda image: cv2.filter2D(image, -1, _SMOOTHING).reshape(image.shape)), 0, 0.9, True),
}
_AUGMIX = _SHARED | {
    "posterize": (_posterize, 4, 8, False),
    "translate_x": (_RANDAUGMENT["translate_x"][0], 0, 1 / 3, True),
    "translate_y": (_RANDAUGMENT["translate_y"][0], 0, 1 / 3, True),
}

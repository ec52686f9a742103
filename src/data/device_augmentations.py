"""augment.place=device: what is cheap on a GPU is drawn image by image in the loader, and applied to batches there.

The draws are those of albumentations' transforms, from the image's own seed: batch size, workers and processes change
nothing, and without blur and noise an image gets the draws of augment.place=loader. All warps and flips of an image are
composed, and one grid_sample reads its pixels: torchvision.transforms.v2 has one draw for a batch, kornia (which this
project does not need otherwise) resamples once for each transform.
"""

import random

import albumentations as A
import numpy as np
import torch
from torch.nn.functional import grid_sample

from src.data.augmentations import AugMix, Cutout, RandAugment, RandomErasing
from src.errors import UserError


class DeviceAugmentation:
    """Draws numbers for one image (numpy, in the loader) and applies those of a batch (torch, on any device).

    Args:
        transforms: albumentations', in order, the warps and flips first.
        source_size, image_size: (height, width) of the images that come, and of those that are returned.
        channels: of an image; a row that has more is several, which all get the same draw.
    """

    def __init__(self, transforms, source_size, image_size, channels):
        self.transforms, self.source_size, self.image_size = transforms, source_size, image_size
        self._channels = channels

    def draw(self, seed):
        """Return the numbers of one image, float32 (D,): a matrix (2, 3) for each warp, then what the pixels take."""
        (rng, own), size, warps, numbers = (np.random.default_rng(seed), random.Random(seed)), self.source_size, [], []
        own.random()  # as A.Compose draws whether it is applied
        for transform in self.transforms:
            transform.set_random_state(rng, own)
            data, params = {"image": np.broadcast_to(np.uint8(0), (*size, 1))}, None
            if transform.should_apply():
                params = transform.update_transform_params(transform.get_params(), data)
                params |= transform.get_params_dependent_on_data(params, data)
            if type(transform) in _PIXELS:
                nothing, function, _ = _PIXELS[type(transform)]
                numbers += list(nothing if params is None else function(params, rng))
                continue
            matrix = np.eye(3) if params is None else _WARPS[type(transform)](params, size, self.image_size)
            if warps and not _is_warp(transform):
                warps[-1] = warps[-1] @ matrix
            else:
                warps.append(matrix)
            size = self.image_size
        return np.array([*np.ravel([warp[:2] for warp in warps]), *numbers], dtype=np.float32)

    @torch.no_grad()
    def __call__(self, images, draws):
        """Return images (N, *source_size, C or several times C) as (N, *image_size, the same), of the same dtype.

        draws: (N, D) of `draw`, on the images' device.
        """
        num_images, is_uint8 = images.shape[3] // self._channels, images.dtype == torch.uint8
        images = images.unflatten(3, (num_images, self._channels)).permute(0, 3, 4, 1, 2).flatten(0, 1).float()
        draws = draws.repeat_interleave(num_images, dim=0) if num_images > 1 else draws
        numbers, warps = iter(draws[:, :, None, None, None].unbind(1)), []  # each (N, 1, 1, 1)
        for transform in self.transforms:
            if type(transform) in _WARPS and (not warps or _is_warp(transform)):
                warps.append([next(numbers)[:, 0] for _ in range(6)])
        images = self._warp(images, warps) if warps else images
        for transform in self.transforms:
            if type(transform) in _PIXELS:
                nothing, _, function = _PIXELS[type(transform)]
                images = function(images, is_uint8, *(next(numbers) for _ in nothing))
        images = images.round().byte() if is_uint8 else images
        return images.unflatten(0, (-1, num_images)).permute(0, 3, 4, 1, 2).flatten(3).contiguous()

    def _warp(self, images, warps):
        """Return images (N, C, H, W) warped; beyond its border an image is mirrored, as by cv2.BORDER_REFLECT_101.

        The coordinates are no matrix product, which on a GPU may be rounded to TF32: by a tenth of a pixel.
        """
        y, x = (torch.arange(side, dtype=torch.float32, device=images.device) for side in self.image_size)
        y, x = y[:, None], x[None]
        for number in reversed(range(len(warps))):  # from a pixel of the output to its place in the source
            xx, xy, x0, yx, yy, y0 = warps[number]
            height, width = self.image_size if number else self.source_size
            places = (xx * x + xy * y + x0, width - 1), (yx * x + yy * y + y0, height - 1)
            x, y = (last - (place.remainder(2 * last) - last).abs() for place, last in places)
        grid = torch.stack([x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1], dim=-1)
        return grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


def choose_for_device(transforms):
    """Return (transforms that stay in the loader, those of a DeviceAugmentation); UserError: one can be in neither.

    Blur, noise, RandAugment and AugMix stay and so come first, which crops, flips and colours after them do not spoil.
    """
    moved = [one for one in transforms if type(one) in (*_WARPS, *_PIXELS)]
    stays = [one for one in transforms if one not in moved]
    for one in stays:
        if not isinstance(one, (A.OneOf, RandAugment, AugMix)):
            found = f"{type(one).__name__} is not known on the device, nor may it come before what is"
            raise UserError(f"augment.place=device: {found}; set augment.place=loader")
    return stays, moved


def _is_warp(transform):
    """Whether pixels may come from beyond the border; flips map an image onto itself."""
    return isinstance(transform, (A.RandomResizedCrop, A.Affine))


def _crop(params, _, image_size):
    left, top, right, bottom = params["crop_coords"]
    x, y = (right - left) / image_size[1], (bottom - top) / image_size[0]
    return np.array([[x, 0, left + x / 2 - 0.5], [0, y, top + y / 2 - 0.5], [0, 0, 1]])  # pixels' centres are at .5


def _flip(xx, xy, yx, yy, size):
    x, y = (size[1] - 1) / 2, (size[0] - 1) / 2
    return np.array([[xx, xy, x - xx * x - xy * y], [yx, yy, y - yx * x - yy * y], [0, 0, 1]])


_D4 = {
    "e": (1, 0, 0, 1), "h": (-1, 0, 0, 1), "v": (1, 0, 0, -1), "t": (0, 1, 1, 0), "hvt": (0, -1, -1, 0),
    "r90": (0, -1, 1, 0), "r180": (-1, 0, 0, -1), "r270": (0, 1, -1, 0),
}  # fmt: skip
_WARPS = {  # class -> (what it drew, size of its input, image_size) -> matrix from a pixel of its output to the input
    A.RandomResizedCrop: _crop,
    A.Affine: lambda params, *_: np.linalg.inv(params["matrix"]),
    A.HorizontalFlip: lambda params, size, _: _flip(*_D4["h"], size),
    A.VerticalFlip: lambda params, size, _: _flip(*_D4["v"], size),
    A.D4: lambda params, size, _: _flip(*_D4[params["group_element"]], size),
}


def _adjust_brightness(images, _, alpha, beta):
    return (images * alpha + beta).clamp(0, 255)


def _shift_colour(images, _, hue_shift, saturation_shift, value_shift):
    """Shift hue, saturation and value, in OpenCV's units of 180, 255 and 255; grey stays grey."""
    value, (red, green, blue) = images.amax(1, keepdim=True), images.split(1, dim=1)
    chroma = value - images.amin(1, keepdim=True)
    divisor = chroma.clamp_min(1e-6)
    hue = torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    hue = torch.where(value == red, (green - blue) / divisor, hue) + hue_shift / 30  # 6 is the whole circle
    saturation = 255 * chroma / value.clamp_min(1e-6)
    saturation = torch.where(saturation < 0.5, 0, (saturation + saturation_shift).clamp(0, 255))
    part = (hue + torch.arange(5, 0, -2, device=images.device).view(1, 3, 1, 1)).remainder(6)
    value = (value + value_shift).clamp(0, 255)
    return value - value * saturation / 255 * torch.minimum(part, 4 - part).clamp(0, 1)


def _fill(images, is_uint8, left, top, right, bottom, seed=None):
    """Fill a rectangle with black or, with a seed, with noise: a hash of seed and pixel, the same on every device."""
    y, x = (torch.arange(side, device=images.device) for side in images.shape[2:])
    is_inside = (x >= left) & (x < right) & (y[:, None] >= top) & (y[:, None] < bottom)
    black, white = (0, 256) if is_uint8 else (one((1, 2, 3), keepdim=True) for one in (images.amin, images.amax))
    if seed is None:
        return torch.where(is_inside, black, images)
    bits = torch.arange(images[0].numel(), device=images.device).view(images.shape[1:]) + seed.long() * 0x9E3779B1
    for _ in range(2):  # in 64 bits, whose last 32 go on
        bits = (((bits & 0xFFFFFFFF) >> 16) ^ (bits & 0xFFFFFFFF)) * 0x45D9F3B
    noise = black + (white - black) * ((bits >> 8 & 0xFFFFFF) / 2**24)
    return torch.where(is_inside, noise.floor() if is_uint8 else noise, images)


_PIXELS = {  # class -> (numbers that change nothing, (what it drew, rng) -> numbers, function of images and numbers)
    A.RandomBrightnessContrast: ((1, 0), lambda params, _: (params["alpha"], params["beta"]), _adjust_brightness),
    A.HueSaturationValue: (
        (0, 0, 0), lambda params, _: [params[f"{name}_shift"] for name in ("hue", "sat", "val")], _shift_colour
    ),
    **dict.fromkeys((A.CoarseDropout, Cutout), ((0,) * 4, lambda params, _: params["holes"][0][:4], _fill)),
    RandomErasing: ((0,) * 5, lambda params, rng: (*params["holes"][0], rng.integers(2**24)), _fill),
}  # fmt: skip

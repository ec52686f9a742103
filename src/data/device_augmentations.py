"""augment.place=device: what is cheap on a GPU is drawn for each image by the loader and applied to the whole batch there.

The draws are those of albumentations' transforms, from the image's own seed: a batch of another size, other workers or
processes change nothing, and without blur and noise an image gets what augment.place=loader gives it. The warps and flips
of an image are composed into the place in the source of each of its pixels, and read by one grid_sample:
torchvision.transforms.v2 takes one draw for all of a batch, kornia resamples for each transform.
"""

import random

import albumentations as A
import numpy as np
import torch
from torch.nn.functional import grid_sample

from src.data.augmentations import AugMix, Cutout, RandAugment, RandomErasing
from src.errors import UserError

_STAYS_IN_LOADER = (A.OneOf, RandAugment, AugMix)  # and comes first there: crops and colour of these are as good
_FLIPS = {  # (x, y) from the image's middle -> that of the pixel to read: xx, xy, yx, yy
    "e": (1, 0, 0, 1), "h": (-1, 0, 0, 1), "v": (1, 0, 0, -1), "t": (0, 1, 1, 0), "hvt": (0, -1, -1, 0),
    "r90": (0, -1, 1, 0), "r180": (-1, 0, 0, -1), "r270": (0, 1, -1, 0),
}  # fmt: skip


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
        """Return the numbers of one image, float32 (D,): of each warp (2, 3) its matrix, then what colours need."""
        stream, size = (np.random.default_rng(seed), random.Random(seed)), self.source_size
        stream[1].random()  # as A.Compose draws whether it is applied
        warps, numbers = [], []
        for transform in self.transforms:
            transform.set_random_state(*stream)
            params = _draw_params(transform, size)
            if (function := _WARPS.get(type(transform))) is not None:
                matrix = np.eye(3) if params is None else function(params, size, self.image_size)
                if _is_flip(transform) and warps:
                    warps[-1] = warps[-1] @ matrix
                else:
                    warps.append(matrix)
                size = self.image_size
            else:
                nothing, function, _ = _PIXELS[type(transform)]
                numbers += list(nothing if params is None else function(params))
                numbers += [stream[0].integers(2**24)] if isinstance(transform, RandomErasing) else []  # exact in float32
        return np.array([*np.ravel([warp[:2] for warp in warps]), *numbers], dtype=np.float32)

    @torch.no_grad()
    def __call__(self, images, draws):
        """Return images (N, *source_size, C or several times C), uint8 or float32, as (N, *image_size, same C).

        draws: (N, D), of `draw`, on the images' device; of the same dtype, as the loader's are.
        """
        num_images, dtype = images.shape[3] // self._channels, images.dtype
        images = images.unflatten(3, (num_images, self._channels)).permute(0, 3, 4, 1, 2).flatten(0, 1).float()
        draws = draws.repeat_interleave(num_images, dim=0) if num_images > 1 else draws
        kinds = [one for one in self.transforms if type(one) in _WARPS]
        if num_warps := len(kinds) - sum(map(_is_flip, kinds[1:])):
            images = self._warp(images, draws[:, : 6 * num_warps].view(-1, num_warps, 6))
        draws = draws[:, 6 * num_warps :, None, None, None]  # each (N, 1, 1, 1)
        for transform in self.transforms[len(kinds) :]:
            nothing, _, function = _PIXELS[type(transform)]
            count = len(nothing) + isinstance(transform, RandomErasing)
            images, draws = function(images, *draws[:, :count].unbind(1), dtype == torch.uint8), draws[:, count:]
        images = images.round().to(dtype) if dtype == torch.uint8 else images
        return images.unflatten(0, (-1, num_images)).permute(0, 3, 4, 1, 2).flatten(3).contiguous()

    def _warp(self, images, warps):
        """Return images (N, C, H, W) warped by matrices (N, W, 6), the last of which is the last to be applied.

        Outside an image is its mirror image, as of OpenCV's BORDER_REFLECT_101. The coordinates are no matrix product,
        which may be rounded to TF32: a tenth of a pixel.
        """
        y, x = (torch.arange(side, dtype=torch.float32, device=images.device) for side in self.image_size)
        y, x = y[:, None], x[None]
        for number in reversed(range(warps.shape[1])):
            xx, xy, x0, yx, yy, y0 = warps[:, number, :, None, None].unbind(1)
            height, width = self.image_size if number else self.source_size
            x, y = _reflect(xx * x + xy * y + x0, width - 1), _reflect(yx * x + yy * y + y0, height - 1)
        grid = torch.stack([x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1], dim=-1)
        return grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


def choose_for_device(transforms):
    """Return the transforms that stay in the loader, and those that a DeviceAugmentation applies; UserError: neither."""
    known = [*_WARPS, *_PIXELS]
    for one in transforms:
        if type(one) not in known and not isinstance(one, _STAYS_IN_LOADER):
            found = f"{type(one).__name__} is not known on the device, nor may it come before what is"
            raise UserError(f"augment.place=device: {found}; set augment.place=loader")
    moved = [one for one in transforms if type(one) in known]
    return [one for one in transforms if type(one) not in known], moved


def _draw_params(transform, size):
    """Return what an albumentations transform draws for an image of this size; None: it is not applied."""
    if not transform.should_apply():
        return None
    data = {"image": np.broadcast_to(np.uint8(0), (*size, 1))}
    params = transform.update_transform_params(transform.get_params(), data)
    return params | transform.get_params_dependent_on_data(params, data)


def _is_flip(transform):
    return isinstance(transform, (A.HorizontalFlip, A.VerticalFlip, A.D4))


def _crop(params, source_size, image_size):
    """Return the matrix from a pixel (x, y, 1) of the resized crop to its place in the source; centres are at .5."""
    left, top, right, bottom = params["crop_coords"]
    x, y = (right - left) / image_size[1], (bottom - top) / image_size[0]
    return np.array([[x, 0, left + x / 2 - 0.5], [0, y, top + y / 2 - 0.5], [0, 0, 1]])


def _flip(name, size):
    xx, xy, yx, yy = _FLIPS[name]
    x, y = (size[1] - 1) / 2, (size[0] - 1) / 2
    return np.array([[xx, xy, x - xx * x - xy * y], [yx, yy, y - yx * x - yy * y], [0, 0, 1]])


_WARPS = {  # class -> (what it drew, the size of the image it sees, image_size) -> matrix from its output to its input
    A.RandomResizedCrop: _crop,
    A.Affine: lambda params, *_: np.linalg.inv(params["matrix"]),
    A.HorizontalFlip: lambda params, size, _: _flip("h", size),
    A.VerticalFlip: lambda params, size, _: _flip("v", size),
    A.D4: lambda params, size, _: _flip(params["group_element"], size),
}


def _reflect(place, last):
    """Mirror coordinates at 0 and at `last`."""
    return last - (place.remainder(2 * last) - last).abs()


def _adjust_brightness(images, alpha, beta, is_uint8):
    return (images * alpha + beta).clamp(0, 255)


def _shift_colour(images, hue_shift, saturation_shift, value_shift, is_uint8):
    """Shift hue, saturation and value, in OpenCV's units of 180, 255 and 255; grey stays grey."""
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    red, green, blue = images.split(1, dim=1)
    is_red, is_green, divisor = value == red, value == green, chroma.clamp_min(1e-6)
    hue = torch.where(is_green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    hue = torch.where(is_red, (green - blue) / divisor, hue) + hue_shift / 30  # 6 is the whole circle
    saturation = 255 * chroma / value.clamp_min(1e-6)
    saturation = torch.where(saturation < 0.5, 0, (saturation + saturation_shift).clamp(0, 255))
    value = (value + value_shift).clamp(0, 255)
    part = (hue + torch.arange(5, 0, -2, device=images.device).view(1, 3, 1, 1)).remainder(6)
    return value - value * saturation / 255 * torch.minimum(part, 4 - part).clamp(0, 1)


def _find_inside(images, left, top, right, bottom):
    y, x = (torch.arange(side, device=images.device) for side in images.shape[2:])
    return (x >= left) & (x < right) & (y[:, None] >= top) & (y[:, None] < bottom)


def _black_out(images, left, top, right, bottom, is_uint8):
    black = 0 if is_uint8 else images.amin(dim=(1, 2, 3), keepdim=True)
    return torch.where(_find_inside(images, left, top, right, bottom), black, images)


def _erase(images, left, top, right, bottom, seed, is_uint8):
    """Fill a rectangle with noise, a hash of the seed and of the pixel's number: the same on every device."""
    bits = torch.arange(images[0].numel(), device=images.device).view(images.shape[1:]) + seed.long() * 0x9E3779B1
    for _ in range(2):  # in 64 bits, whose last 32 are kept
        bits = (((bits & 0xFFFFFFFF) >> 16) ^ bits & 0xFFFFFFFF) * 0x45D9F3B
    bits = (bits >> 8) & 0xFFFFFF
    if is_uint8:
        noise = (bits >> 16).float()
    else:
        low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
        noise = low + (high - low) * (bits / 2**24)
    return torch.where(_find_inside(images, left, top, right, bottom), noise, images)


_PIXELS = {  # class -> (numbers that change nothing, what it drew -> numbers, images and numbers -> images)
    A.RandomBrightnessContrast: ((1, 0), lambda params: (params["alpha"], params["beta"]), _adjust_brightness),
    A.HueSaturationValue: (
        (0, 0, 0), lambda params: [params[f"{name}_shift"] for name in ("hue", "sat", "val")], _shift_colour
    ),
    A.CoarseDropout: ((0, 0, 0, 0), lambda params: params["holes"][0][:4], _black_out),
    Cutout: ((0, 0, 0, 0), lambda params: params["holes"][0][:4], _black_out),
    RandomErasing: ((0, 0, 0, 0), lambda params: params["holes"][0][:4], _erase),
}  # fmt: skip

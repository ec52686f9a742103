"""Test-time augmentation (TTA): views of images (N, C, H, W); a new view is a function and an entry below."""

import torch
from torch.nn import functional

from src.errors import UserError


def hflip(images):
    """Mirror left and right."""
    return images.flip(3)


def vflip(images):
    """Mirror top and bottom."""
    return images.flip(2)


def rotate90(images):
    """Turn by a quarter, counter-clockwise; H and W change places."""
    return torch.rot90(images, 1, (2, 3))


def rotate180(images):
    """Turn by a half."""
    return images.flip((2, 3))


def rotate270(images):
    """Turn by three quarters, counter-clockwise; H and W change places."""
    return torch.rot90(images, 3, (2, 3))


def transpose(images):
    """Mirror at the main diagonal; H and W change places."""
    return images.transpose(2, 3)


def antitranspose(images):
    """Mirror at the other diagonal; H and W change places."""
    return images.flip((2, 3)).transpose(2, 3)


def smaller(images):
    """Seven eighths of the size."""
    return functional.interpolate(images, scale_factor=0.875, mode="bilinear", antialias=True)


def larger(images):
    """Nine eighths of the size."""
    return functional.interpolate(images, scale_factor=1.125, mode="bilinear")


_TURNS = (rotate90, rotate270, transpose, antitranspose)

VIEWS = {
    "hflip": (hflip,),
    "vflip": (vflip,),
    "d4": (hflip, vflip, rotate180, *_TURNS),
    "scales": (smaller, larger),
}


def build_views(names, image_size):
    """Return the functions of all named views, each once; the plain image is not among them.

    Raises:
        UserError: no such view, or d4 on images that are not square.
    """
    if "d4" in names and image_size[0] != image_size[1]:
        raise UserError(
            f"infer.tta=d4: needs square images, image_size is {list(image_size)}; set infer.tta=[hflip,vflip]"
        )
    return tuple(dict.fromkeys(view for name in names for view in VIEWS[name]))

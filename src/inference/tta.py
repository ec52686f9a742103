"""Test-time augmentation (TTA): views of images (N, C, H, W); a new view is a function and an entry of VIEWS."""

import math

import torch
from torch.nn import functional

from src.errors import UserError, listing

# The symmetries of the square; the last four swap H and W.
_D4 = {
    "hflip": lambda images: images.flip(3),
    "vflip": lambda images: images.flip(2),
    "rotate180": lambda images: images.flip((2, 3)),
    "rotate90": lambda images: torch.rot90(images, 1, (2, 3)),  # counter-clockwise
    "rotate270": lambda images: torch.rot90(images, 3, (2, 3)),
    "transpose": lambda images: images.transpose(2, 3),  # mirror at the main diagonal
    "antitranspose": lambda images: images.flip((2, 3)).transpose(2, 3),  # mirror at the other diagonal
}


def smaller(images):
    """Seven eighths of the size."""
    return functional.interpolate(images, scale_factor=0.875, mode="bilinear", antialias=True)


def larger(images):
    """Nine eighths of the size."""
    return functional.interpolate(images, scale_factor=1.125, mode="bilinear")


_NAMES = {view: name for name, view in _D4.items()} | {smaller: "smaller", larger: "larger"}
VIEWS = {
    "hflip": (_D4["hflip"],),
    "vflip": (_D4["vflip"],),
    "d4": tuple(_D4.values()),
    "scales": (smaller, larger),
}


def build_views(names, image_size):
    """Return {name: function} of all named views, each once; the plain image is not among them."""
    if "d4" in names and image_size[0] != image_size[1]:
        found = f"needs square images, image_size is {list(image_size)}"
        raise UserError(f"infer.tta=d4: {found}; set infer.tta=[hflip,vflip]")
    views = dict.fromkeys(view for name in names for view in VIEWS[name])
    return {_NAMES.get(view, f"view{place}"): view for place, view in enumerate(views, 1)}


def check_weights(weights, views):
    """Check infer.tta_weights: none, or one for the plain image and each view {name: function}, not all of them 0."""
    names = ["plain", *views]
    if weights and (len(weights) != len(names) or not 0 < sum(weights) < math.inf):
        found = f"{len(weights)} numbers" if len(weights) != len(names) else "have no sum above 0"
        raise UserError(f"infer.tta_weights={weights}: {found}; give one for each of {listing(names, 20)}")

"""Mixup and CutMix on a batch of inputs and float targets: mixed inputs have mixed targets, for any task."""

import numpy as np
import torch

from src.device import to_device
from src.errors import UserError


def mixup(inputs, targets, permutation, lam):
    """Blend each row of inputs {name: (N, ...) float} and targets (N, K) with its partner's; lam is its own share.

    Reference: Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018, arXiv:1710.09412, eq. 1.
    """
    mixed = {name: torch.lerp(one[to_device(permutation, one.device)], one, lam) for name, one in inputs.items()}
    return mixed, torch.lerp(targets[to_device(permutation, targets.device)], targets, lam)


def cutmix(inputs, targets, permutation, box):
    """Paste a box of the partner into each image (N, C, H, W); blend targets, and inputs that are no images, by area.

    Reference: Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features,
    2019, arXiv:1905.04899, eq. 1; lambda is the area really left, after clipping at the border.
    """
    top, left, bottom, right = box
    height, width = _image_size(inputs)
    lam = 1 - (bottom - top) * (right - left) / (height * width)
    mixed, targets = mixup({name: one for name, one in inputs.items() if one.ndim != 4}, targets, permutation, lam)
    for name, image in inputs.items():
        if image.ndim == 4:
            mixed[name], partners = image.clone(), to_device(permutation, image.device)
            mixed[name][:, :, top:bottom, left:right] = image[partners, :, top:bottom, left:right]
    return mixed, targets


def draw_box(height, width, lam, rng):
    """Draw (top, left, bottom, right) of 1 - lam of the area, clipped at the border; arXiv:1905.04899, eq. 2."""
    cut_height, cut_width = (round(side * np.sqrt(1 - lam)) for side in (height, width))
    top, left = int(rng.integers(height)) - cut_height // 2, int(rng.integers(width)) - cut_width // 2
    return max(top, 0), max(left, 0), min(top + cut_height, height), min(left + cut_width, width)


def mix_batch(mix, inputs, targets, generator):
    """Return inputs and targets, by Mixup or CutMix or as they were; mix: src.config.settings.Mix.

    One number is drawn from the torch.Generator (CPU).
    """
    for name, one in inputs.items():
        if not one.is_floating_point():
            found = f"input '{name}' is {str(one.dtype).removeprefix('torch.')} and cannot be mixed"
            raise UserError(f"mix.prob={mix.prob}: {found}; set mix.prob=0, or make it float in ImageDataset.read")
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    if rng.random() >= mix.prob:
        return inputs, targets
    permutation = torch.from_numpy(rng.permutation(len(targets)))  # targets may still be on the CPU
    cutmix_share = 0 if mix.cutmix_alpha == 0 else 1 if mix.mixup_alpha == 0 else mix.switch_prob
    if rng.random() < cutmix_share:
        lam = rng.beta(mix.cutmix_alpha, mix.cutmix_alpha)
        return cutmix(inputs, targets, permutation, draw_box(*_image_size(inputs), lam, rng))
    return mixup(inputs, targets, permutation, float(rng.beta(mix.mixup_alpha, mix.mixup_alpha)))


def _image_size(inputs):
    return next(one.shape[2:] for one in inputs.values() if one.ndim == 4)

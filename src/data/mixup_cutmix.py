"""Mixup and CutMix on a batch of images and float targets.

The idea to know: targets are (N, C) floats, so that a mixed picture simply has mixed targets, for any task and any
batch size. Each batch takes one number from the torch generator and draws all the rest from it.
"""

import numpy as np
import torch


def mixup(images, targets, permutation, lam):
    """Blend each picture, and its target, with its partner.

    Args:
        images: (N, C, H, W).
        targets: (N, K).
        permutation: (N,) int, each picture's partner.
        lam: share of the picture itself, in [0, 1].

    Reference: Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018, arXiv:1710.09412, eq. 1.
    """
    return torch.lerp(images[permutation], images, lam), torch.lerp(targets[permutation], targets, lam)


def cutmix(images, targets, permutation, box):
    """Paste a box of each picture's partner into it; the target is shared by area.

    Args:
        images: (N, C, H, W).
        targets: (N, K).
        permutation: (N,) int, each picture's partner.
        box: (top, left, bottom, right) in pixels, the last two exclusive; the same for the whole batch.

    Reference: Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features,
    2019, arXiv:1905.04899, eq. 1; lambda is the area really left, after clipping at the border.
    """
    top, left, bottom, right = box
    lam = 1 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[permutation, :, top:bottom, left:right]
    return mixed, torch.lerp(targets[permutation], targets, lam)


def draw_box(height, width, lam, rng):
    """Draw (top, left, bottom, right) of 1 - lam of the area around a uniform centre, clipped at the border.

    Reference: arXiv:1905.04899, eq. 2.
    """
    cut_height, cut_width = (round(side * np.sqrt(1 - lam)) for side in (height, width))
    top, left = int(rng.integers(height)) - cut_height // 2, int(rng.integers(width)) - cut_width // 2
    return max(top, 0), max(left, 0), min(top + cut_height, height), min(left + cut_width, width)


class Mixer:
    """Mixes a share of the batches, by Mixup or CutMix.

    Args:
        settings: src.config.settings.Mix.
    """

    def __init__(self, settings):
        self.settings = settings

    def __call__(self, images, targets, generator):
        """Return images and targets, mixed or as they were; the inputs stay as they are.

        Args:
            images: (N, C, H, W) float.
            targets: (N, K) float.
            generator: torch.Generator on the CPU; moves on by one draw a batch.
        """
        mix = self.settings
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        if rng.random() >= mix.prob:
            return images, targets
        permutation = torch.from_numpy(rng.permutation(len(images))).to(images.device)
        cutmix_share = 0 if mix.cutmix_alpha == 0 else 1 if mix.mixup_alpha == 0 else mix.switch_prob
        if rng.random() < cutmix_share:
            lam = rng.beta(mix.cutmix_alpha, mix.cutmix_alpha)
            return cutmix(images, targets, permutation, draw_box(*images.shape[2:], lam, rng))
        return mixup(images, targets, permutation, float(rng.beta(mix.mixup_alpha, mix.mixup_alpha)))

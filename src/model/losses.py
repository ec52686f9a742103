"""Logits and targets -> one number to minimise; logits -> probabilities. Always in float32, whatever the logits are."""

from functools import partial

import torch
from torch.nn import functional


def bce_loss(logits, targets):
    """Binary cross-entropy of each answer, averaged; targets (N, C) in [0, 1], soft or hard."""
    return functional.binary_cross_entropy_with_logits(logits, targets)


def cross_entropy_loss(logits, targets):
    """Cross-entropy of the softmax against target distributions (N, C), averaged over rows."""
    return functional.cross_entropy(logits, targets)


def focal_loss(logits, targets, gamma=2.0, is_multiclass=False):
    """Cross-entropy that fades out the examples the model already gets right.

    Args:
        logits: (N, C), raw scores.
        targets: (N, C) in [0, 1]; soft after Mixup, where both sides of the target count in their shares.
        gamma: focus, >= 0; 0 gives plain cross-entropy.
        is_multiclass: softmax over the columns instead of a sigmoid for each.

    Reference: Lin et al., Focal Loss for Dense Object Detection, 2017, arXiv:1708.02002, eq. 4.
    """
    if is_multiclass:
        log_probs = functional.log_softmax(logits, dim=1)
        missing = (1 - log_probs.exp()).clamp(min=1e-7)  # at 0 a gamma below 1 has an infinite gradient
        return -(targets * missing.pow(gamma) * log_probs).sum(dim=1).mean()
    positive, negative = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    losses = targets * (gamma * negative).exp() * positive + (1 - targets) * (gamma * positive).exp() * negative
    return -losses.mean()


LOSSES = {"bce": bce_loss, "cross_entropy": cross_entropy_loss, "focal": focal_loss}


def smooth_targets(targets, smoothing, task):
    """Move a share of each target to the alternatives, evenly: 2 for a yes/no answer, C for classes.

    Reference: Szegedy et al., Rethinking the Inception Architecture, 2016, arXiv:1512.00567, section 7.
    """
    alternatives = targets.shape[1] if task == "multiclass" else 2
    return targets * (1 - smoothing) + smoothing / alternatives


def build_loss(settings, task):
    """Return (logits (N, C), targets (N, C)) -> scalar for the settings (config.Loss) and the task."""
    name = settings.name
    if name == "auto":
        name = "cross_entropy" if task == "multiclass" else "bce"
    function = LOSSES[name]
    if name == "focal":
        function = partial(focal_loss, gamma=settings.focal_gamma, is_multiclass=task == "multiclass")

    def loss(logits, targets):
        return function(logits.float(), smooth_targets(targets.float(), settings.label_smoothing, task))

    return loss


def probabilities(logits, task):
    """Return softmax over the classes for multiclass, else a sigmoid for each answer; float32, same shape."""
    logits = logits.float()
    return torch.softmax(logits, dim=1) if task == "multiclass" else torch.sigmoid(logits)

"""Logits and targets -> one number to minimise; logits -> probabilities. Always in float32, whatever the logits are.

A soft target counts as its shares of hard ones. Class weights multiply those shares: the mean over the rows of a
multiclass task is divided by the sum of the weights, the mean over yes/no answers is not, both as torch has it.
"""

from functools import partial

import numpy as np
import torch
from torch.nn import functional


def bce_loss(logits, targets, weights=None):
    """Binary cross-entropy of each answer, averaged; targets (N, C) in [0, 1], soft or hard.

    Args:
        logits: (N, C), raw scores.
        targets: (N, C).
        weights: (C,), factor of each column's positive share, torch's pos_weight; None: 1.
    """
    return functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)


def cross_entropy_loss(logits, targets, weights=None):
    """Cross-entropy of the softmax against target distributions (N, C), averaged over rows.

    Args:
        logits: (N, C), raw scores.
        targets: (N, C), rows that sum to one.
        weights: (C,), factor of each class's share; the sum is divided by the sum of the weighted shares, so that
            one-hot rows give what torch gives for class numbers. Each batch is a mean of its own, so that several small
            ones (accumulated, or on several devices) are not quite one large one. None: 1.
    """
    total = len(targets) if weights is None else (targets * weights).sum()
    return functional.cross_entropy(logits, targets, weight=weights, reduction="sum") / total


def mse_loss(logits, targets, is_multiclass=False, weights=None):
    """Squared error of the probabilities, averaged over all entries; targets (N, C), soft or hard.

    Reference: Brier, Verification of Forecasts Expressed in Terms of Probability, 1950, eq. 2; there summed over the
    classes, here averaged.
    """
    errors = (_probs(logits, is_multiclass) - targets).square()
    return _error_mean(errors, targets, is_multiclass, weights)


def huber_loss(logits, targets, delta=0.5, is_multiclass=False, weights=None):
    """Half the squared error of the probabilities, but linear above `delta`; averaged over all entries.

    Reference: Huber, Robust Estimation of a Location Parameter, 1964.
    """
    errors = functional.huber_loss(_probs(logits, is_multiclass), targets, delta=delta, reduction="none")
    return _error_mean(errors, targets, is_multiclass, weights)


def hinge_loss(logits, targets, margin=1.0, is_multiclass=False, weights=None):
    """What the logit of the right side lacks to lead by `margin`; targets (N, C) are hard.

    A yes/no answer's logit leads zero; a class's logit leads each other class's, and the lacks are summed over the
    others and divided by C.

    Reference: Weston and Watkins, Support Vector Machines for Multi-Class Pattern Recognition, 1999. (Crammer and
    Singer, 2001, take the largest lack instead of the sum.)
    """
    if is_multiclass:
        lacks = functional.multi_margin_loss(logits, targets.argmax(dim=1), margin=margin, reduction="none")
        return _class_mean(lacks[:, None], targets, weights)
    return _answer_mean((margin - logits).clamp(min=0), (margin + logits).clamp(min=0), targets, weights)


def focal_loss(logits, targets, gamma=2.0, is_multiclass=False, weights=None):
    """Cross-entropy that fades out the examples the model already gets right.

    Args:
        logits: (N, C), raw scores.
        targets: (N, C) in [0, 1]; soft after Mixup, where both sides of the target count in their shares.
        gamma: focus, >= 0; 0 gives plain cross-entropy.
        is_multiclass: softmax over the columns instead of a sigmoid for each.
        weights: (C,), factor of each class's share, or of each column's positive share; None: 1.

    Reference: Lin et al., Focal Loss for Dense Object Detection, 2017, arXiv:1708.02002, eq. 4.
    """
    if is_multiclass:
        log_probs = functional.log_softmax(logits, dim=1)
        missing = (1 - log_probs.exp()).clamp(min=1e-7)  # at 0 a gamma below 1 has an infinite gradient
        return _class_mean(-missing.pow(gamma) * log_probs, targets, weights)
    positive, negative = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    return _answer_mean(-(gamma * negative).exp() * positive, -(gamma * positive).exp() * negative, targets, weights)


def asymmetric_loss(logits, targets, positive_gamma=0.0, negative_gamma=4.0, negative_margin=0.05, weights=None):
    """Focal loss with a focus for each side, that forgets the negatives the model is sure of.

    Args:
        logits: (N, C), raw scores of yes/no answers.
        targets: (N, C) in [0, 1]; both sides of a soft target count in their shares.
        positive_gamma: focus on positives, >= 0.
        negative_gamma: focus on negatives, >= 0; with both 0 and no margin this is binary cross-entropy.
        negative_margin: taken off the probability of a negative, in [0, 1); below it a negative costs nothing.
        weights: (C,), factor of each column's positive share; None: 1.

    Reference: Ridnik et al., Asymmetric Loss For Multi-Label Classification, 2021, arXiv:2009.14119, eq. 4-7.
    """
    log_yes, log_no = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    positive = -(positive_gamma * log_no).exp() * log_yes
    # log(1 - max(p - margin, 0)) as log(min(1 - p + margin, 1)): finite where p rounds to 1
    log_shifted = torch.logaddexp(log_no, logits.new_full((), negative_margin).log()).clamp(max=0)
    shifted = (-torch.expm1(log_shifted)).clamp(min=1e-7)  # as in focal_loss; some torch's clamp(max=0) lets 0 through
    return _answer_mean(positive, -shifted.pow(negative_gamma) * log_shifted, targets, weights)


def auc_loss(logits, targets, margin=1.0, is_multiclass=False):
    """Squared lack of each positive to lead each negative of the batch by `margin`: a smooth stand-in for 1 - AUC.

    Averaged over a column's pairs, then over the columns that have both sides in the batch; without any it is zero.

    Args:
        logits: (N, C), raw scores; of multiclass, a class is scored by the log-odds of its probability.
        targets: (N, C), hard.
        margin: lead that is asked for, >= 0.
        is_multiclass: each class against the rest, by log-odds.

    Reference: Gao and Zhou, On the Consistency of AUC Pairwise Optimization, 2015, arXiv:1208.0645, the q-norm hinge
    loss with q = 2.
    """
    scores = _log_odds(logits) if is_multiclass else logits
    positive = (targets > 0.5).float()
    pairs = positive[:, None] * (1 - positive)  # (N positives, N negatives, C)
    lacks = (margin - (scores[:, None] - scores)).clamp(min=0).square()
    num_pairs = pairs.sum(dim=(0, 1))
    columns = (lacks * pairs).sum(dim=(0, 1)) / num_pairs.clamp(min=1)
    return columns.sum() / (num_pairs > 0).sum().clamp(min=1)


LOSSES = {
    "bce": bce_loss,
    "cross_entropy": cross_entropy_loss,
    "mse": mse_loss,
    "huber": huber_loss,
    "hinge": hinge_loss,
    "focal": focal_loss,
    "asymmetric": asymmetric_loss,
    "auc": auc_loss,
}


def consistency_loss(logits_of_views, task):
    """Jensen-Shannon divergence of what the views of an image are said to show; in nats, zero where all agree.

    Args:
        logits_of_views: (V, N, C), raw scores of V views of the same N images.
        task: multiclass compares the softmax of each row, averaged over rows; binary and multilabel compare each
            yes/no answer, averaged over all.

    Reference: Hendrycks et al., AugMix, 2020, arXiv:1912.02781, section 3, eq. 1-2.
    """
    logits = logits_of_views.float()
    if task == "multiclass":
        log_probs = functional.log_softmax(logits, dim=2)
    else:
        log_probs = torch.stack([functional.logsigmoid(logits), functional.logsigmoid(-logits)], dim=-1)
    log_mixture = log_probs.logsumexp(dim=0) - np.log(len(logits))
    divergence = (log_probs.exp() * (log_probs - log_mixture)).sum(dim=-1).mean()
    return divergence.clamp(min=0)  # equal views may round to just below


def smooth_targets(targets, smoothing, task):
    """Move a share of each target to the alternatives, evenly: 2 for a yes/no answer, C for classes.

    Reference: Szegedy et al., Rethinking the Inception Architecture, 2016, arXiv:1512.00567, section 7.
    """
    alternatives = targets.shape[1] if task == "multiclass" else 2
    return targets * (1 - smoothing) + smoothing / alternatives


def build_loss(settings, task, class_weights=None):
    """Return (logits (N, C), targets (N, C)) -> scalar for the settings (config.Loss) and the task.

    Args:
        settings: config.Loss.
        task: binary, multilabel or multiclass.
        class_weights: (C,) from class_weights.resolve_class_weights; None: no weights. auc takes none.
    """
    is_multiclass = task == "multiclass"
    name = settings.name_for(task)
    options = {
        "bce": {},
        "cross_entropy": {},
        "mse": {"is_multiclass": is_multiclass},
        "huber": {"is_multiclass": is_multiclass, "delta": settings.huber_delta},
        "hinge": {"is_multiclass": is_multiclass, "margin": settings.margin},
        "focal": {"is_multiclass": is_multiclass, "gamma": settings.focal_gamma},
        "asymmetric": {
            "positive_gamma": settings.positive_gamma,
            "negative_gamma": settings.negative_gamma,
            "negative_margin": settings.negative_margin,
        },
        "auc": {"is_multiclass": is_multiclass, "margin": settings.margin},
    }
    function = partial(LOSSES[name], **options[name])
    weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
    assert weights is None or name != "auc", "auc takes no class weights"

    def loss(logits, targets):
        nonlocal weights
        targets = smooth_targets(targets.float(), settings.label_smoothing, task)
        if weights is None:
            return function(logits.float(), targets)
        weights = weights.to(logits.device)  # a copy in the first step only
        return function(logits.float(), targets, weights=weights)

    return loss


def probabilities(logits, task):
    """Return softmax over the classes for multiclass, else a sigmoid for each answer; float32, same shape."""
    return _probs(logits.float(), task == "multiclass")


def _probs(logits, is_multiclass):
    return torch.softmax(logits, dim=1) if is_multiclass else torch.sigmoid(logits)


def _log_odds(logits):
    """Return log(p / (1 - p)) of each class's softmax probability, (N, C)."""
    log_probs = functional.log_softmax(logits, dim=1)
    top = logits.argmax(dim=1, keepdim=True)
    log_others = torch.log1p(-log_probs.exp().clamp(max=0.9))  # of all but the top class p is at most a half
    log_others_of_top = log_probs.scatter(1, top, -torch.inf).logsumexp(dim=1, keepdim=True)
    return log_probs - log_others.scatter(1, top, log_others_of_top)


def _error_mean(errors, targets, is_multiclass, weights):
    """Mean of the errors (N, C) of probabilities; a soft target weighs the whole of its row or entry."""
    if is_multiclass:
        return _class_mean(errors.mean(dim=1, keepdim=True), targets, weights)
    return _answer_mean(errors, errors, targets, weights)


def _class_mean(losses, targets, weights):
    """Mean over rows of the loss of each class, (N, C) or (N, 1), by the classes' shares and weights."""
    shares = targets if weights is None else targets * weights
    total = len(targets) if weights is None else shares.sum()
    return (shares * losses).sum() / total


def _answer_mean(positive, negative, targets, weights):
    """Mean over entries of the loss of each side, (N, C), by the sides' shares and the positives' weights."""
    shares = targets if weights is None else targets * weights
    return (shares * positive + (1 - targets) * negative).mean()

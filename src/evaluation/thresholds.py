"""Probabilities -> labels: a threshold for each column, found on out-of-fold predictions."""

import numpy as np

from src.evaluation.metrics import compute_f1


def choose_thresholds(targets, probs):
    """Return each column's threshold, (C,), whose F1 on targets and probs (N, C) is the best; 0.5 without positives.

    It lies halfway between the lowest probability that it takes and the next one below, 0 if there is none.
    """
    thresholds = np.full(np.shape(targets)[1], 0.5)
    for column, (truth, values) in enumerate(zip(np.asarray(targets).T, np.asarray(probs).T, strict=True)):
        is_known = ~np.isnan(truth)
        is_positive, values = truth[is_known] >= 0.5, values[is_known]
        if is_positive.any():
            f1, steps = compute_f1(is_positive, values)
            lowest = steps[f1.argmax()]
            thresholds[column] = (lowest + values[values < lowest].max(initial=0)) / 2
    return thresholds


def choose_labels(probs, thresholds, may_be_none):
    """Return (N, C) bool: the columns from their thresholds on; where none is and may_be_none is False, the largest."""
    probs = np.asarray(probs)
    is_label = probs >= thresholds
    if not may_be_none:
        is_label[np.arange(len(probs)), probs.argmax(axis=1)] |= ~is_label.any(axis=1)
    return is_label

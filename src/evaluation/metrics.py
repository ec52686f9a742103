"""Probabilities against answers: one number per column, and their mean."""

import warnings

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

METRICS = {"roc_auc": roc_auc_score, "average_precision": average_precision_score}


def score_columns(targets, probs, metric="roc_auc"):
    """Score every column one against the rest.

    Args:
        targets: (N, C) in [0, 1]; soft answers count as positive from 0.5 on.
        probs: (N, C), larger means more likely.
        metric: a key of METRICS.

    Returns:
        (C,) float64; nan for a column that has no positive or no negative.

    Reference: Fawcett, An introduction to ROC analysis, 2006, for the area under the curve.
    """
    positive = np.asarray(targets) >= 0.5
    scores = np.full(positive.shape[1], np.nan)
    for column in range(positive.shape[1]):
        if 0 < positive[:, column].sum() < len(positive):
            scores[column] = METRICS[metric](positive[:, column], probs[:, column])
    return scores


def score(targets, probs, metric="roc_auc"):
    """Return the mean of the columns that can be scored (macro average); nan when none can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy warns of a mean over no column
        return float(np.nanmean(score_columns(targets, probs, metric)))


def log_loss(targets, probs, task):
    """Mean negative log-likelihood of soft targets (N, C): per answer for sigmoid tasks, per row for multiclass."""
    targets = np.asarray(targets, dtype=np.float64)
    probs = np.clip(np.asarray(probs, dtype=np.float64), 1e-7, 1 - 1e-7)
    if task == "multiclass":
        return float(-(targets * np.log(probs)).sum(axis=1).mean())
    return float(-(targets * np.log(probs) + (1 - targets) * np.log(1 - probs)).mean())

"""Several networks' predictions -> one; a new way is a function and an entry below (numpy and scipy, no torch)."""

import numpy as np
from scipy.stats import rankdata


def mean(probs):
    """Average probabilities (M, N, C) over the M models."""
    return np.asarray(probs, dtype=np.float64).mean(axis=0)


def rank_mean(probs):
    """Average each model's ranks instead of its values, column by column; in (0, 1].

    ROC AUC looks at the order only, so models that are calibrated differently count the same.
    """
    probs = np.asarray(probs, dtype=np.float64)
    return (rankdata(probs, axis=1) / probs.shape[1]).mean(axis=0)


ENSEMBLES = {"mean": mean, "rank": rank_mean}

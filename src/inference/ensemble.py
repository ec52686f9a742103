"""Several networks' predictions -> one; a new way is a function and an entry below (numpy and scipy, no torch).

Its attribute `needs` says what it must see at once of 10^6 rows: "rows" (any some), "columns" (one), else all.
"""

import numpy as np
from scipy.stats import rankdata


def mean(probs):
    """Average probabilities (M, N, C) over the M models, in float64."""
    return sum(np.asarray(one, dtype=np.float64) for one in probs) / len(probs)


def rank_mean(probs):
    """Average each model's ranks instead of its values, column by column; in (0, 1].

    ROC AUC looks at the order only, so models that are calibrated differently count the same.
    """
    return mean([rankdata(np.asarray(one, dtype=np.float64), axis=0) / len(one) for one in probs])


mean.needs, rank_mean.needs = "rows", "columns"
ENSEMBLES = {"mean": mean, "rank": rank_mean}

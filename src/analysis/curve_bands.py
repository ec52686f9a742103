"""ROC and precision-recall curves with bootstrap bands, as arrays that a figure shows (numpy alone)."""

import math

import numpy as np

_MOST_POINTS = 400  # of a curve
_GRID = np.unique(np.concatenate([np.linspace(0, 1, 81), np.linspace(0, 0.1, 41)]))  # false-positive rates


class Bands:
    """ROC and precision-recall of one column with bands (see `compute_bands`); thinned to what a figure shows."""

    def __init__(self, fpr, tpr, recall, precision, share, auc, average_precision):
        self.fpr, self.tpr, self.recall, self.precision = fpr, tpr, recall, precision
        self.share, self.auc, self.average_precision = share, auc, average_precision
        self.grid = _GRID
        self.recall_grid = np.linspace(0.02, 1, 81)
        self.tpr_low = self.tpr_high = self.precision_low = self.precision_high = None


def compute_bands(targets, probs, groups=None, num_samples=200, seed=0, max_work=2e7):
    """Return the Bands of one column; both arguments (N,), nan where a target is not known.

    The bootstrap draws each unit a Poisson(1) number of times (Hanley and MacGibbon, Creating Non-parametric Bootstrap
    Samples Using Poisson Frequencies, 2006), a unit being a row or a group; of rows it draws the counts of at most
    1,000 bins of equal count, which is the same thing at the bins' ends.

    Args:
        groups: (N,), equal ones are one unit; None: each row its own.
        max_work: rows that the samples of groups read at most; they become fewer, at least 20.
    """
    known = ~np.isnan(targets)
    positive, values = targets[known] >= 0.5, np.asarray(probs, dtype=np.float64)[known]
    order = np.argsort(-values, kind="stable")
    positive, values = positive[order], values[order]
    ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    counts = np.stack([np.cumsum(positive)[ends], np.cumsum(~positive)[ends]]).astype(np.float64)
    total = counts[:, -1]
    tpr, fpr = (np.append(0, one / max(all_, 1)) for one, all_ in zip(counts, total, strict=True))
    precision = counts[0] / counts.sum(axis=0)
    steps = np.diff(tpr)
    found = Bands(*thin(fpr, tpr), *thin(tpr[1:], precision), total[0] / max(1, len(values)),
                  float(np.trapezoid(tpr, fpr)), float((steps * precision).sum()))  # fmt: skip
    if len(ends) > 1000:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, 1000).round().astype(int))]
    rng, tprs, precisions = np.random.default_rng(seed), [], []
    for tp, fp in _draw_counts(positive, ends, None if groups is None else groups[known][order], rng,
                               num_samples, max_work):  # fmt: skip
        if tp[-1] and fp[-1]:
            one_tpr, one_fpr = np.append(0, tp / tp[-1]), np.append(0, fp / fp[-1])
            tprs.append(np.interp(found.grid, one_fpr, one_tpr))
            precisions.append(np.interp(found.recall_grid, one_tpr[1:], tp / np.maximum(tp + fp, 1e-9)))
    if len(tprs) >= 20:
        found.tpr_low, found.tpr_high = np.quantile(tprs, (0.025, 0.975), axis=0)
        found.precision_low, found.precision_high = np.quantile(precisions, (0.025, 0.975), axis=0)
    return found


def order_columns(targets, probs, max_work=1e7):
    """Return the columns that have a positive and a negative, those with the lowest ROC AUC first.

    Of more than max_work values as many rows are drawn at random.
    """
    rows = sample_rows(len(targets), max(1000, int(max_work / targets.shape[1])))
    aucs = np.array([compute_areas(targets[rows, one], probs[rows, one])[0] for one in range(targets.shape[1])])
    order = np.argsort(aucs, kind="stable")  # nan comes last
    return order[: np.isfinite(aucs).sum()].tolist()


def compute_areas(targets, probs):
    """Return (ROC AUC, average precision) of one column (N,), nan without both sides; nan targets do not count."""
    known = ~np.isnan(targets)
    if not 0 < (targets[known] >= 0.5).sum() < known.sum():
        return math.nan, math.nan
    found = compute_bands(targets, probs, num_samples=0)
    return found.auc, found.average_precision


def compute_mean_roc(targets, probs, columns, most=200):
    """Return (grid, mean true-positive rate) of columns, of many a sample, on 20,000 rows at most."""
    rows = sample_rows(len(targets), 20_000)
    chosen, curves = np.array(columns)[sample_rows(len(columns), most)], []
    for column in chosen:
        known = rows[~np.isnan(targets[rows, column])]
        positive = targets[known, column][np.argsort(-probs[known, column], kind="stable")] >= 0.5
        if 0 < positive.sum() < len(positive):
            tpr, fpr = np.cumsum(positive) / positive.sum(), np.cumsum(~positive) / (~positive).sum()
            curves.append(np.interp(_GRID, np.append(0, fpr), np.append(0, tpr)))
    return _GRID, np.mean(curves, axis=0) if curves else np.full(len(_GRID), np.nan)


def sample_rows(count, most, seed=0):
    """Return the indices of `count` rows, of more than `most` as many drawn at random, in order."""
    return np.arange(count) if count <= most else np.sort(np.random.default_rng(seed).choice(count, most, False))


def _draw_counts(positive, ends, groups, rng, num_samples, max_work):
    """Yield bootstrap samples: the positives and negatives (E,) up to each of `ends`."""
    if groups is None:
        starts = np.append(0, ends[:-1] + 1)
        of_bins = np.add.reduceat(positive.astype(np.int64), starts)
        sizes = np.diff(np.append(starts, len(positive)))
        for _ in range(num_samples):
            yield np.cumsum(rng.poisson(of_bins)), np.cumsum(rng.poisson(sizes - of_bins))
        return
    units = np.unique(groups, return_inverse=True)[1]
    for _ in range(int(np.clip(max_work / len(units), 20, num_samples))):
        weights = rng.poisson(1, units.max() + 1)[units]
        yield np.cumsum(weights * positive)[ends], np.cumsum(weights * ~positive)[ends]


def thin(first, second):
    """Return two arrays of the same length, thinned to at most 400 points that keep both ends."""
    if len(first) <= _MOST_POINTS:
        return first, second
    rows = np.unique(np.linspace(0, len(first) - 1, _MOST_POINTS).round().astype(int))
    return first[rows], second[rows]

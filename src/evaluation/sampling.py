"""How much scores, and differences of scores on the same rows, would vary with other rows of the same kind."""

from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Sampling:
    """The sampling distribution of M predictions' scores on the same N rows: DeLong's normal, or bootstrap samples."""

    scores: np.ndarray  # (M,) float64
    method: str  # "DeLong" or "bootstrap"
    num_units: int  # rows, or groups where rows of one belong together
    covariance: np.ndarray | None = None  # (M, M), of DeLong
    samples: np.ndarray | None = None  # (B, M), of the bootstrap

    def interval(self, index, share=None, confidence=0.95):
        """Return (low, high) of one score; share: of a sample of this many times the rows, such as a leaderboard's."""
        return self._interval(np.eye(len(self.scores))[index], confidence, share)

    def difference(self, first, second, confidence=0.95):
        """Return (scores[second] - scores[first], low, high, p), p that of no difference, two-sided."""
        weights = np.eye(len(self.scores))[second] - np.eye(len(self.scores))[first]
        value = float(weights @ self.scores)
        return value, *self._interval(weights, confidence), self._p_value(weights)

    def _interval(self, weights, confidence, share=None):
        value = weights @ self.scores
        if self.covariance is not None:
            half = stats.norm.ppf((1 + confidence) / 2) * np.sqrt(max(weights @ self.covariance @ weights, 0.0))
            low, high = value - half, value + half
        else:
            low, high = np.nanquantile(self.samples @ weights, [(1 - confidence) / 2, (1 + confidence) / 2])
        scale = 1.0 if share is None else 1 / np.sqrt(share)
        return float(value + (low - value) * scale), float(value + (high - value) * scale)

    def _p_value(self, weights):
        value = float(weights @ self.scores)
        if self.covariance is not None:
            error = np.sqrt(max(weights @ self.covariance @ weights, 0.0))
            return float(2 * stats.norm.sf(abs(value) / error)) if error > 0 else float(value == 0)
        drawn = self.samples @ weights
        drawn = drawn[~np.isnan(drawn)]
        tail = min((drawn <= 0).mean(), (drawn >= 0).mean())
        return float(min(1.0, max(2 * tail, 1 / len(drawn))))


def sample_scores(metric, targets, predictions, groups=None, num_samples=1000, seed=0):
    """Return the Sampling of M predictions' scores.

    ROC AUC has DeLong's covariance in O(N log N), every other metric a bootstrap of rows. Rows of one group are not
    independent: with groups it is the groups that vary, so that copies of a patient's rows narrow nothing.

    Args:
        metric: evaluation.metrics.Metric.
        targets: (N, C) in [0, 1]; nan where a cell is unknown.
        predictions: M arrays of probabilities (N, C).
        groups: (N,), equal ones are one unit; None: each row is its own.
        num_samples: bootstrap samples, fewer of many rows (at least 100), so that it takes seconds.

    Reference: DeLong, DeLong and Clarke-Pearson, Comparing the Areas under Two or More Correlated Receiver Operating
    Characteristic Curves, 1988, Biometrics 44, equations 3 to 6; Sun and Xu, Fast Implementation of DeLong's
    Algorithm, 2014, IEEE Signal Processing Letters 21, for the ranks; Obuchowski, Nonparametric Analysis of Clustered
    ROC Curve Data, 1997, Biometrics 53, for the sums over groups, from which we depart by taking k / (k - 1) of the k
    groups that hold a positive (a negative) for its parts alike. Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, chapter 13, for the percentile interval; whole groups are drawn.
    """
    targets = np.asarray(targets, dtype=np.float64)
    predictions = [np.asarray(one, dtype=np.float64) for one in predictions]
    scores = np.array([metric.score(targets, one) for one in predictions])
    units = np.arange(len(targets)) if groups is None else np.unique(groups, return_inverse=True)[1]
    num_units = int(units.max()) + 1
    if metric.name == "roc_auc":
        parts = np.stack([_mean_influence(metric, targets, one, units, num_units) for one in predictions], axis=1)
        return Sampling(scores, "DeLong", num_units, covariance=parts.T @ parts)
    samples = _bootstrap(metric, targets, predictions, units, num_units, num_samples, seed)
    return Sampling(scores, "bootstrap", num_units, samples=samples)


def holm(p_values):
    """Return the p values of a family of comparisons, corrected so that the chance of any false one is kept.

    Reference: Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979, Scandinavian J. of Statistics 6.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values)
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)).clip(max=1.0)
    return corrected.tolist()


def auc_influence(is_positive, probs, units):
    """Return each row's part (N,) in the error of one column's AUC; units (N,) int number what is independent.

    The variance is the sum over units of their squared sums: with a unit per row DeLong's S10 / m + S01 / n.
    """
    ranks, influence = stats.rankdata(probs), np.empty(len(probs))
    for side, sign in ((is_positive, 1), (~is_positive, -1)):
        placements = (ranks[side] - stats.rankdata(probs[side])) / (~side).sum()  # share of the others that is below
        num_units = np.count_nonzero(np.bincount(units[side]))
        correction = np.sqrt(num_units / max(num_units - 1, 1))
        influence[side] = sign * correction * (placements - placements.mean()) / side.sum()
    return influence


def _mean_influence(metric, targets, probs, units, num_units):
    """The part (units,) of each unit in the error of the weighted mean of the columns that have a score."""
    is_positive, is_known = metric.positives(targets), ~np.isnan(targets)
    weights = np.ones(targets.shape[1]) if metric.weights is None else np.asarray(metric.weights, dtype=np.float64)
    total, parts = 0.0, np.zeros(num_units)
    for column, weight in enumerate(weights):
        rows = np.flatnonzero(is_known[:, column])
        positive = is_positive[rows, column]
        if 0 < positive.sum() < len(rows):
            found = auc_influence(positive, probs[rows, column], units[rows])
            parts += weight * np.bincount(units[rows], found, num_units)
            total += weight
    return parts / total if total else np.full(num_units, np.nan)


def _bootstrap(metric, targets, predictions, units, num_units, num_samples, seed):
    """The scores (B, M) of samples of whole units, drawn with replacement."""
    rng, sizes = np.random.default_rng(seed), np.bincount(units)
    num_samples = int(np.clip(4e6 / targets.size / len(predictions), 100, num_samples))
    order, starts = np.argsort(units, kind="stable"), np.cumsum(sizes) - sizes
    samples = np.empty((num_samples, len(predictions)))
    for sample in samples:
        drawn = rng.integers(num_units, size=num_units)
        ends = np.cumsum(sizes[drawn])
        rows = order[np.repeat(starts[drawn] - ends + sizes[drawn], sizes[drawn]) + np.arange(ends[-1])]
        sample[:] = [metric.score(targets[rows], one[rows]) for one in predictions]
    return samples

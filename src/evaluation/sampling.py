"""How much scores, and differences of scores on the same rows, would vary with other rows of the same kind."""

from dataclasses import dataclass

import numpy as np
import scipy

from src.evaluation.metrics import count_below

_ENDS = (1 - 0.95) / 2, (1 + 0.95) / 2  # the quantiles of 95 %


@dataclass(frozen=True)
class Sampling:
    """The sampling distribution of M predictions' scores on the same N rows: a normal one, or bootstrap samples."""

    scores: np.ndarray  # (M,) float64
    method: str  # "DeLong" or "bootstrap"
    num_units: int  # rows, or groups where rows of one belong together
    covariance: np.ndarray | None = None  # (M, M), of DeLong, or of a bootstrap of too few samples for quantiles
    samples: np.ndarray | None = None  # (B, M), of the bootstrap
    bounds: tuple = (-np.inf, np.inf)  # of a score
    num_fewest: int = 1  # units on the smaller sides of the columns
    freedom: np.ndarray | None = None  # (M,) degrees of freedom of DeLong's variances

    def interval(self, index, share=None):
        """Return (low, high) of one score, within its bounds; (nan, nan) where the score is nan.

        share: of the score that another sample of this many times the rows would show, such as a public leaderboard:
            the errors of both add up. ROC AUC's is symmetric on the scale of its logit (Pepe, The Statistical
            Evaluation of Medical Tests, 2003, chapter 5), with Student's t for few units. A score at its bound, which
            never varies, has the exact bound of a share (Clopper and Pearson, 1934), for ROC AUC that of the rarer
            side's units, which is a cautious one.
        """
        value, (lowest, highest) = float(self.scores[index]), self.bounds
        scale = 1.0 if share is None else np.sqrt(1 + 1 / share)
        low, high = self._interval(np.eye(len(self.scores))[index])
        if self.freedom is not None and high - low > 1e-9 and 0 < value < 1:
            half = scipy.stats.t.ppf(_ENDS[1], self.freedom[index]) * np.sqrt(self.covariance[index, index])
            reach = scale * half / (value * (1 - value))
            low, high = (scipy.special.expit(scipy.special.logit(value) + one) for one in (-reach, reach))
            if share is not None:  # a small sample's often is 1, which the logit never reaches
                low, high = max(0.0, min(low, value - scale * half)), min(1.0, max(high, value + scale * half))
            return float(low), float(high)
        if high - low < 1e-9 and np.isfinite(highest - lowest):
            reach = (highest - lowest) * (1 - _ENDS[0] ** (1 / self.num_fewest))
            low, high = (value - reach * (value >= highest - 1e-9), value + reach * (value <= lowest + 1e-9))
        ends = value + (low - value) * scale, value + (high - value) * scale
        return tuple(float(np.clip(one, lowest, highest)) for one in ends)

    def difference(self, first, second):
        """Return (scores[second] - scores[first], low, high, p), p that of no difference, two-sided, or nan."""
        weights = np.eye(len(self.scores))[second] - np.eye(len(self.scores))[first]
        value, (low, high) = float(weights @ self.scores), self._interval(weights)
        if np.isnan(low):
            return value, low, high, np.nan
        if self.covariance is not None:
            error = np.sqrt(max(weights @ self.covariance @ weights, 0.0))
            return value, low, high, float(2 * scipy.stats.norm.sf(abs(value) / error) if error > 0 else value == 0)
        drawn = self.samples @ weights
        drawn = drawn[~np.isnan(drawn)]
        tail = min((drawn <= 0).mean(), (drawn >= 0).mean())
        return value, low, high, float(min(1.0, max(2 * tail, 1 / len(drawn))))

    def _interval(self, weights):
        value = weights @ self.scores
        if np.isnan(value):
            return np.nan, np.nan
        if self.covariance is not None:
            half = scipy.stats.norm.ppf(_ENDS[1]) * np.sqrt(max(weights @ self.covariance @ weights, 0.0))
            return float(value - half), float(value + half)
        low, high = np.nanquantile(self.samples @ weights, _ENDS)
        return float(low), float(high)


def sample_scores(metric, targets, predictions, groups=None, num_samples=1000, seed=0, max_work=2e7):
    """Return the Sampling of M predictions' scores.

    ROC AUC has DeLong's covariance in O(N log N), every other metric a bootstrap of rows. Rows of one group are not
    independent: with groups it is the groups that vary, so that copies of a patient's rows narrow nothing.

    Args:
        metric: evaluation.metrics.Metric.
        targets: (N, C) in [0, 1]; nan where a cell is unknown.
        predictions: M arrays of probabilities (N, C).
        groups: (N,), equal ones are one unit; None: each row is its own.
        num_samples: bootstrap samples at most.
        max_work: values that the bootstrap scores, of which 1e7 take about two seconds on one core. To stay below it,
            it takes fewer samples, at least 25, whose deviation makes a normal interval when they are below 200, and
            then smaller ones, at least 1 / 25 of the units each, whose deviations are scaled by the root of the share.

    Reference: DeLong, DeLong and Clarke-Pearson, Comparing the Areas under Two or More Correlated Receiver Operating
    Characteristic Curves, 1988, Biometrics 44, equations 3 to 6; Sun and Xu, Fast Implementation of DeLong's
    Algorithm, 2014, IEEE Signal Processing Letters 21, for the ranks; Obuchowski, Nonparametric Analysis of Clustered
    ROC Curve Data, 1997, Biometrics 53, for the sums over groups, from which we depart by taking k / (k - 1) of the k
    groups that hold a positive (a negative) for its parts alike. Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, chapter 13, for the percentile interval; whole groups are drawn. Bickel, Goetze and van Zwet,
    Resampling Fewer than n Observations, 1997, Statistica Sinica 7, for the smaller samples.
    """
    targets = np.asarray(targets)
    predictions = [np.asarray(one, dtype=np.float64) for one in predictions]
    scores = np.array([metric.score(targets, one) for one in predictions])
    units = number_units(groups, len(targets))
    num_units = int(units.max()) + 1
    shared = {"num_units": num_units, "bounds": metric.bounds, "num_fewest": num_units}
    if metric.fold_needs == "both":
        is_positive, is_known = metric.positives(targets), ~np.isnan(targets)
        is_more = is_positive.sum(axis=0) > (is_known & ~is_positive).sum(axis=0)
        is_rare = (is_positive != is_more) & is_known
        counts = is_rare.sum(axis=0)[is_rare.any(axis=0)]
        if len(counts):  # a mean over columns counts their rows by Kish's effective size, each row once at most
            num_rows = min(is_rare.any(axis=1).sum(), len(counts) ** 2 / (1 / counts).sum())
            shared["num_fewest"] = max(1, int(num_units * num_rows / len(targets) + 1e-9))
    if metric.name == "roc_auc":
        found = [_mean_influence(metric, targets, one, units, num_units) for one in predictions]
        parts, freedom = np.stack([one for one, _ in found], axis=1), np.array([one for _, one in found])
        return Sampling(scores, "DeLong", covariance=parts.T @ parts, freedom=freedom, **shared)
    samples, share = _bootstrap(metric, targets, predictions, units, num_units, num_samples, seed, max_work)
    if len(samples) < min(200, num_samples):
        known = samples[~np.isnan(samples).any(axis=1)]
        covariance = np.atleast_2d(np.cov(known.T)) * share if len(known) > 1 else np.full((len(scores),) * 2, np.nan)
        return Sampling(scores, "bootstrap", covariance=covariance, **shared)
    return Sampling(scores, "bootstrap", samples=samples, **shared)


def number_units(groups, num_rows):
    """Return (N,) int from 0, equal for rows of one group, (N,); groups None: each row is its own."""
    return np.arange(num_rows) if groups is None else np.unique(groups, return_inverse=True)[1]


def draw_units(units, num_drawn, num_samples, seed):
    """Yield bootstrap samples, as the indices of rows: of whole units, (N,) int, drawn with replacement."""
    rng, sizes = np.random.default_rng(seed), np.bincount(units)
    order, starts = np.argsort(units, kind="stable"), np.cumsum(sizes) - sizes
    for _ in range(num_samples):
        drawn = rng.integers(len(sizes), size=num_drawn)
        ends = np.cumsum(sizes[drawn])
        yield order[np.repeat(starts[drawn] - ends + sizes[drawn], sizes[drawn]) + np.arange(ends[-1])]


def _mean_influence(metric, targets, probs, units, num_units):
    """Return (the part (units,) of each unit in the error of the weighted mean AUC, the degrees of freedom).

    The variance is the sum of the squared parts: with a unit per row DeLong's S10 / m + S01 / n.

    Reference: Satterthwaite, An Approximate Distribution of Estimates of Variance Components, 1946, Biometrics 2.
    """
    is_positive, is_known = metric.positives(targets), ~np.isnan(targets)
    weights = np.ones(targets.shape[1]) if metric.weights is None else np.asarray(metric.weights, dtype=np.float64)
    total, parts, variances, freedoms = 0.0, np.zeros(num_units), [], []
    for column, weight in enumerate(weights):
        rows = np.flatnonzero(is_known[:, column])
        positive = is_positive[rows, column]
        if not 0 < positive.sum() < len(rows):
            continue
        total += weight
        counts = count_below(positive, probs[rows, column])
        for side, sign, below in zip((positive, ~positive), (1, -1), counts, strict=True):
            own, size = units[rows[side]], side.sum()
            placements, num_own = below / (len(rows) - size), np.count_nonzero(np.bincount(own))
            if num_own > 1:
                errors = np.sqrt(num_own / (num_own - 1)) * (placements - placements.mean())
            else:  # one unit shows no variance: the largest that such a mean can have
                errors = np.full(size, np.sqrt(placements.mean() * (1 - placements.mean())))
            of_side = np.bincount(own, weight * (sign * errors / size), num_units)
            variances.append((of_side**2).sum())
            freedoms.append(max(1, num_own - 1))
            parts += of_side
    variances = np.array(variances)
    freedom = variances.sum() ** 2 / max((variances**2 / freedoms).sum(), 1e-300)
    return (parts / total if total else np.full(num_units, np.nan)), max(1.0, freedom)


def _bootstrap(metric, targets, predictions, units, num_units, num_samples, seed, max_work):
    """Return (the scores (B, M) of samples of whole units, drawn with replacement; each one's share of the units)."""
    values, calls = targets.size * len(predictions), len(predictions) * (targets.shape[1] if metric.has_columns else 1)
    num_samples = int(np.clip(max_work / (values + 5000 * calls), min(25, num_samples), num_samples))  # a call: 1 ms
    share = float(np.clip(max_work / values / num_samples, 1 / 25, 1)) if num_samples == 25 else 1.0
    num_drawn = max(2, round(num_units * share))
    drawn = draw_units(units, num_drawn, num_samples, seed)
    samples = [[metric.score(targets[rows], one[rows]) for one in predictions] for rows in drawn]
    return np.array(samples), num_drawn / num_units

"""How well probabilities come true: calibration nested by folds, and the expected calibration error."""

from dataclasses import dataclass

import numpy as np

from src.evaluation.calibration import CALIBRATIONS
from src.evaluation.sampling import number_units


def calibrate_nested(method, targets, probs, folds, task):
    """Return probs (N, C), those of a fold by the calibration that is fitted on all other folds (N,)."""
    calibrated = np.empty(probs.shape)
    for fold in np.unique(folds):
        rows = folds == fold
        calibrated[rows] = CALIBRATIONS[method](targets[~rows], probs[~rows], task)[0](probs[rows])
    return calibrated


@dataclass(frozen=True)
class CalibrationError:
    """The expected calibration error (ECE) of probabilities in B bins of equal count, fewer where values repeat."""

    ece: float  # mean over predictions of their bin's gap, |share that came true - mean probability|; not debiased
    chance: float  # what perfectly calibrated predictions would show in these bins, on average
    interval: tuple[float, float]  # 95 %
    confidences: np.ndarray  # (B,) mean probability of a bin
    shares: np.ndarray  # (B,) share in it that came true
    sizes: np.ndarray  # (B,) predictions in it


def expected_calibration_error(targets, probs, task, groups=None, num_bins=15, num_samples=1000, seed=0):
    """Return the CalibrationError of probs (N, C): of a row's top class in multiclass, else of every known cell.

    A bin's gap is above 0 by chance alone, which the estimate does not correct for: how much chance adds depends on
    the true gap, from nothing to `chance`. The bootstrap interval allows for both, so that it holds the true error at
    least as often as it says.

    Args:
        groups: (N,), whole groups are drawn; None: rows are.
        num_samples: bootstrap samples, fewer of many rows (at least 100).

    Reference: Guo et al., On Calibration of Modern Neural Networks, 2017, arXiv:1706.04599, equation 3, with bins of
    equal count (Nguyen and O'Connor, 2015, arXiv:1508.05154); for the bias Kumar et al., Verified Uncertainty
    Calibration, 2019, arXiv:1909.10155.
    """
    targets, probs = np.asarray(targets, dtype=np.float64), np.asarray(probs, dtype=np.float64)
    units = number_units(groups, len(targets))
    if task == "multiclass":
        top = probs.argmax(axis=1)[:, None]
        truth, values = (np.take_along_axis(one, top, axis=1).ravel() for one in (targets, probs))
    else:
        is_known = ~np.isnan(targets)
        truth, values, units = targets[is_known], probs[is_known], units[np.nonzero(is_known)[0]]
    edges = np.unique(np.quantile(values, np.arange(1, num_bins) / num_bins))
    bins = np.unique(np.searchsorted(edges, values), return_inverse=True)[1]
    sizes = np.bincount(bins).astype(np.float64)
    shares, confidences = (np.bincount(bins, one) / sizes for one in (truth, values))
    samples = _draw_gaps(truth - values, bins, units, num_samples, seed)
    ece = _average(np.abs(shares - confidences), sizes)
    chance = _average(samples.std(axis=0) * np.sqrt(2 / np.pi), sizes)  # E|x| of a normal x around 0
    drawn = _average(np.abs(samples), sizes)
    low, high = ece + np.quantile(drawn, [0.025, 0.975]) - drawn.mean()
    interval = max(0.0, float(low - chance)), float(high)
    return CalibrationError(float(ece), float(chance), interval, confidences, shares, sizes)


def _average(gaps, sizes):
    return gaps @ sizes / sizes.sum()


def _draw_gaps(errors, bins, units, num_samples, seed):
    """The bins' mean errors (S, B) in samples of whole units; 0 where a sample has none of a bin."""
    rng, num_bins, num_units = np.random.default_rng(seed), bins.max() + 1, units.max() + 1
    samples = np.empty((int(np.clip(2e7 / len(errors), 100, num_samples)), num_bins))
    for sample in samples:
        weights = np.bincount(rng.integers(num_units, size=num_units), minlength=num_units)[units]
        counts = np.bincount(bins, weights, num_bins)
        sample[:] = np.bincount(bins, weights * errors, num_bins) / np.maximum(counts, 1)
    return samples

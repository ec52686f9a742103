"""The corrected interval against hand-computed numbers, and against SciPy's where the correction is left out."""

import numpy as np
import pytest
from scipy import stats

from src.evaluation.intervals import _interval, paired_interval


def test_an_interval_by_hand():
    # mean 2, variance 1, n 3, 2 folds: half width = t(0.975, 2 degrees) * sqrt(1 * (1/3 + 1/1)) = 4.302653 * 1.154701
    mean, low, high = paired_interval([1.0, 2.0, 3.0], num_folds=2)
    assert mean == 2
    assert low == pytest.approx(2 - 4.968275, abs=1e-5)
    assert high == pytest.approx(2 + 4.968275, abs=1e-5)


def test_two_differences_suffice():
    # mean 1, variance 2, n 2, 5 folds: half width = t(0.975, 1 degree) * sqrt(2 * (1/2 + 1/4)) = 12.706205 * 1.224745
    mean, low, high = paired_interval([0.0, 2.0], num_folds=5)
    assert (mean, low, high) == pytest.approx((1, 1 - 15.561859, 1 + 15.561859), abs=1e-5)


def test_equal_differences_have_no_width():
    assert paired_interval([0.25] * 4, num_folds=5) == (0.25, 0.25, 0.25)


def test_without_the_correction_it_is_scipys():
    differences = np.random.default_rng(0).normal(0.1, 1, 15)
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.9)
    assert _interval(differences, 0, 0.9)[1:] == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_correction_widens_by_the_known_factor():
    differences = np.random.default_rng(1).normal(0, 1, 15)
    _, narrow_low, narrow_high = _interval(differences, 0, 0.95)
    _, low, high = paired_interval(differences, num_folds=5)
    assert (high - low) / (narrow_high - narrow_low) == pytest.approx(np.sqrt((1 / 15 + 1 / 4) / (1 / 15)))


def test_repeating_the_folds_does_not_make_it_vanish():
    """Where fold scores of a repetition share most of their noise, 95 % must not become 50 %."""
    rng = np.random.default_rng(2)
    narrow = wide = 0
    for _ in range(400):
        shared = rng.normal(0, 1)  # what all trainings on one data set have in common; the true difference is 0
        differences = shared * np.sqrt(0.2) + rng.normal(0, np.sqrt(0.8), 50)  # correlation 1/k, as the authors assume
        _, low, high = _interval(differences, 0, 0.95)
        narrow += low <= 0 <= high
        _, low, high = paired_interval(differences, num_folds=5)
        wide += low <= 0 <= high
    assert narrow / 400 < 0.6
    assert wide / 400 > 0.92

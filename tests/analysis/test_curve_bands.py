"""Areas are scikit-learn's, and bands as wide as the binomial says."""

import numpy as np
import pytest
from sklearn import metrics

from src.analysis.curve_bands import compute_areas, compute_bands, order_columns


def test_areas_are_those_of_scikit_learn_with_ties_and_missing_targets(predictions):
    targets, probs = predictions
    for column in range(6):
        known = ~np.isnan(targets[:, column])
        truth, values = targets[known, column], probs[known, column]
        auc, precision = compute_areas(targets[:, column], probs[:, column])
        assert auc == pytest.approx(metrics.roc_auc_score(truth, values))
        assert precision == pytest.approx(metrics.average_precision_score(truth, values))
    assert np.isnan(compute_areas(np.zeros(5), np.arange(5.0))).all()
    aucs = [compute_areas(*one)[0] for one in zip(targets.T, probs.T, strict=True)]
    assert order_columns(targets, probs) == np.argsort(aucs).tolist()


def test_bands_hold_the_curve_and_are_as_wide_as_the_binomial(predictions):
    rng = np.random.default_rng(1)
    targets = (np.arange(4000) < 1000).astype(float)
    found = compute_bands(targets, rng.random(4000) + targets)
    at = np.searchsorted(found.grid, 0.5)
    tpr = np.interp(found.grid[at], found.fpr, found.tpr)
    assert found.tpr_low[at] <= tpr <= found.tpr_high[at]
    values = rng.random(4000)  # which know nothing: the share above a threshold is binomial on both sides
    found = compute_bands(targets, values)
    expected = 2 * 1.96 * np.sqrt(0.25 / 1000 + 0.25 / 3000)
    assert found.tpr_high[at] - found.tpr_low[at] == pytest.approx(expected, rel=0.25)


def test_rows_of_a_group_vary_together():
    rng = np.random.default_rng(2)
    targets, values = np.repeat((np.arange(100) < 50).astype(float), 10), np.repeat(rng.random(100), 10)
    at = np.searchsorted(compute_bands(targets, values).grid, 0.5)
    widths = [
        np.subtract(found.tpr_high[at], found.tpr_low[at])
        for found in (compute_bands(targets, values, groups) for groups in (None, np.arange(1000) // 10))
    ]
    assert widths[1] > 2 * widths[0]

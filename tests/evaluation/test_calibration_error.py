"""Calibration errors whose truth is known, and calibration that has not seen the rows it is judged on."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from src.evaluation.calibration import CALIBRATIONS
from src.evaluation.calibration_error import calibrate_nested, expected_calibration_error


def draw(num_rows, seed, factor=1.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_rows, 1)) * 2
    return (rng.random(logits.shape) < expit(logits)).astype(float), expit(factor * logits)


def test_the_error_of_four_rows_by_hand():
    targets, probs = np.array([[0], [1], [1], [1.0]]), np.array([[0.1], [0.3], [0.8], [0.9]])
    found = expected_calibration_error(targets, probs, "binary", num_bins=2, num_samples=100)
    assert found.sizes.tolist() == [2, 2]
    assert found.confidences == pytest.approx([0.2, 0.85])
    assert found.shares == pytest.approx([0.5, 1])
    assert found.ece == pytest.approx((0.3 + 0.15) / 2)


def test_of_classes_the_top_one_counts_and_equal_values_share_a_bin():
    targets = np.eye(3)[[0, 1, 1, 2]]
    probs = np.array([[0.6, 0.3, 0.1], [0.6, 0.4, 0], [0, 0.6, 0.4], [0.1, 0.1, 0.8]])
    found = expected_calibration_error(targets, probs, "multiclass", num_samples=100)
    assert found.sizes.tolist() == [3, 1]
    assert found.ece == pytest.approx(3 / 4 * abs(2 / 3 - 0.6) + 1 / 4 * 0.2)


def test_the_interval_holds_the_true_error():
    """0 of calibrated predictions; of logits times 2 the mean of |p - q|, here of a million draws."""
    logits = np.random.default_rng(0).normal(size=1_000_000) * 2
    truth = {1.0: 0.0, 2.0: np.abs(expit(logits) - expit(2 * logits)).mean()}
    for factor, error in truth.items():
        found = [expected_calibration_error(*draw(1000, seed, factor), "binary", num_samples=100) for seed in range(40)]
        assert sum(one.interval[0] <= error <= one.interval[1] for one in found) >= 37
        assert np.mean([one.interval[1] - one.interval[0] for one in found]) < 0.1
    chance = [expected_calibration_error(*draw(1000, seed), "binary", num_samples=100) for seed in range(40)]
    assert np.mean([one.ece for one in chance]) == pytest.approx(np.mean([one.chance for one in chance]), rel=0.1)


def test_copies_of_a_groups_rows_narrow_nothing():
    targets, probs = draw(300, 0, 2.0)
    once = expected_calibration_error(targets, probs, "binary", np.arange(300), num_samples=100)
    twice = expected_calibration_error(
        np.repeat(targets, 2, axis=0),
        np.repeat(probs, 2, axis=0),
        "binary",
        np.repeat(np.arange(300), 2),
        num_samples=100,
    )
    assert twice.interval == pytest.approx(once.interval, abs=0.004)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_a_fold_is_calibrated_by_the_others(method):
    targets, probs = draw(600, 0, 3.0)
    folds = np.arange(600) % 3
    found = calibrate_nested(method, targets, probs, folds, "binary")
    for fold in range(3):
        rows = folds == fold
        expected = CALIBRATIONS[method](targets[~rows], probs[~rows], "binary")[0](probs[rows])
        np.testing.assert_array_equal(found[rows], expected)
    changed = targets.copy()
    changed[0] = 1 - changed[0]  # its own target does not reach a row
    assert calibrate_nested(method, changed, probs, folds, "binary")[0] == found[0]


def test_several_columns_are_judged_together_and_unknown_cells_do_not_count():
    rng = np.random.default_rng(0)
    probs = softmax(rng.normal(size=(50, 2)), axis=1)
    targets = (rng.random((50, 2)) < probs).astype(float)
    targets[:10, 1] = np.nan
    found = expected_calibration_error(targets, probs, "multilabel", num_samples=100)
    assert found.sizes.sum() == 90

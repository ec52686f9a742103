"""Calibrations against what was done to the probabilities, and against scipy and scikit-learn."""

import re

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit, softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss, roc_auc_score

from src.evaluation.calibration import CALIBRATIONS


def draw(task, num_rows=4000, num_columns=3, seed=0):
    """Logits (N, C) and targets that come true as often as they say."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_rows, num_columns)) * 1.5
    if task == "multiclass":
        return logits, (rng.random((num_rows, 1)) > softmax(logits, axis=1).cumsum(axis=1)[:, :-1]).sum(axis=1)
    return logits, (rng.random(logits.shape) < expit(logits)).astype(float)


def number_of(words):
    return float(re.search(r"[\d.]+", words)[0])


@pytest.mark.parametrize("factor", [3, 1, 0.5])
def test_binary_logits_times_three_have_temperature_three(factor):
    logits, targets = draw("binary", num_columns=1)
    apply, words = CALIBRATIONS["temperature"](targets, expit(factor * logits), "binary")
    reference = minimize(lambda beta: log_loss(targets[:, 0], expit(beta * factor * logits)[:, 0]), [1 / factor]).x[0]
    assert number_of(words) == pytest.approx(1 / reference, abs=2e-3)
    assert number_of(words) == pytest.approx(factor, rel=0.07)
    found = apply(expit(factor * logits))
    np.testing.assert_allclose(found, expit(factor * logits / number_of(words)), atol=1e-3)
    assert roc_auc_score(targets, found) == roc_auc_score(targets, logits)


def test_classes_share_a_temperature_on_their_log_probabilities():
    logits, classes = draw("multiclass")
    probs = softmax(3 * logits, axis=1)
    apply, words = CALIBRATIONS["temperature"](np.eye(3)[classes], probs, "multiclass")
    assert number_of(words) == pytest.approx(3, abs=0.15)
    found = apply(probs)
    np.testing.assert_allclose(found, softmax(3 * logits / number_of(words), axis=1), atol=2e-3)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert log_loss(classes, found) < log_loss(classes, probs) - 0.1


def test_each_column_has_its_temperature_and_unknown_cells_do_not_count():
    logits, targets = draw("multilabel")
    probs = expit(logits * [1, 2, 3])
    targets[:1000, 2] = np.nan
    apply, words = CALIBRATIONS["temperature_per_column"](targets, probs, "multilabel")
    found = [number_of(one) for one in words.split(", ")]
    assert found == pytest.approx([1, 2, 3], rel=0.08)
    known = [CALIBRATIONS["temperature"](targets[1000:, [2]], probs[1000:, [2]], "binary")]
    assert f"temperature {found[2]:.3f}" == known[0][1]
    np.testing.assert_allclose(apply(probs), expit(logit(probs) / found), atol=1e-3)


def test_isotonic_is_scikit_learns_off_zero_and_one():
    logits, targets = draw("multilabel", 500)
    probs, targets[:100, 0] = expit(3 * logits), np.nan
    apply, words = CALIBRATIONS["isotonic"](targets, probs, "multilabel")
    for column in range(3):
        rows = ~np.isnan(targets[:, column])
        steps = IsotonicRegression(out_of_bounds="clip").fit(probs[rows, column], targets[rows, column])
        rest = 1 / (rows.sum() + 2)
        expected = steps.predict(probs[:, column]).clip(rest, 1 - rest)
        np.testing.assert_allclose(apply(probs)[:, column], expected, atol=1e-6)
        assert 0 < apply(np.array([[0.0] * 3, [1.0] * 3]))[0, column] < 0.01
    assert re.fullmatch(r"isotonic in \d+ steps(, isotonic in \d+ steps){2}", words)


def test_isotonic_classes_sum_to_one():
    logits, classes = draw("multiclass", 500)
    apply, _ = CALIBRATIONS["isotonic"](np.eye(3)[classes], softmax(3 * logits, axis=1), "multiclass")
    found = apply(softmax(3 * logits[:50], axis=1))
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found > 0).all()
    assert np.ptp(found, axis=0).min() > 0.3

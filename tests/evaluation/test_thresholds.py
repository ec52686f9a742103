"""Thresholds against every possible one, and the labels that they make."""

import numpy as np
from sklearn.metrics import f1_score

from src.evaluation.thresholds import choose_labels, choose_thresholds


def test_a_threshold_is_halfway_below_the_lowest_probability_that_the_best_f1_takes():
    targets = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 1], [0, 0, np.nan]])
    probs = np.array([[0.9, 0.1, 0.2], [0.6, 0.2, 0.2], [0.3, 0.3, 0.2], [0.1, 0.4, 0.9]])
    np.testing.assert_allclose(choose_thresholds(targets, probs), [0.45, 0.5, 0.1])


def test_no_other_threshold_has_a_better_f1():
    rng = np.random.default_rng(0)
    targets = rng.random((200, 2)) < 0.2
    probs = (rng.random((200, 2)) + targets / 2) / 1.5
    for column, threshold in enumerate(choose_thresholds(targets, probs)):
        truth, values = targets[:, column], probs[:, column]
        best = max(f1_score(truth, values >= one) for one in values)
        assert f1_score(truth, values >= threshold) == best


def test_a_row_without_a_label_gets_its_largest_where_none_may_be_empty():
    probs, thresholds = np.array([[0.4, 0.1], [0.3, 0.29], [0.9, 0.8]]), np.array([0.4, 0.5])
    assert choose_labels(probs, thresholds, may_be_none=True).tolist() == [[1, 0], [0, 0], [1, 1]]
    assert choose_labels(probs, thresholds, may_be_none=False).tolist() == [[1, 0], [1, 0], [1, 1]]

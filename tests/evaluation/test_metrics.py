"""Scores against scikit-learn and hand-computed values."""

import numpy as np
import pytest
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from src.evaluation.metrics import log_loss, score, score_columns


def test_auc_of_four_rows_by_hand():
    targets = np.array([[0], [0], [1], [1]])
    probs = np.array([[0.1], [0.4], [0.35], [0.8]])
    assert score(targets, probs) == 0.75  # 3 of the 4 pairs are in order


def test_macro_auc_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    probs = rng.dirichlet(np.ones(3), 60)
    expected = roc_auc_score(labels, probs, multi_class="ovr")
    assert score(np.eye(3)[labels], probs) == pytest.approx(expected, abs=1e-12)


def test_a_column_of_one_class_is_left_out_of_the_mean():
    targets = np.array([[0, 1], [1, 1], [0, 1]])
    probs = np.array([[0.1, 0.5], [0.9, 0.5], [0.2, 0.5]])
    columns = score_columns(targets, probs)
    assert columns[0] == 1.0
    assert np.isnan(columns[1])
    assert score(targets, probs) == 1.0
    assert np.isnan(score(targets[:, 1:], probs[:, 1:]))


def test_log_loss_is_scikit_learns():
    rng = np.random.default_rng(1)
    labels, probs = rng.integers(0, 3, 40), rng.dirichlet(np.ones(3), 40)
    assert log_loss(np.eye(3)[labels], probs, "multiclass") == pytest.approx(sklearn_log_loss(labels, probs))
    yes, chance = rng.integers(0, 2, 40), rng.random(40)
    assert log_loss(yes[:, None], chance[:, None], "binary") == pytest.approx(sklearn_log_loss(yes, chance))

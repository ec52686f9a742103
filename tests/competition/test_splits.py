"""Splits against scikit-learn's own, and several labels spread evenly."""

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from src.competition.folds import check_folds, make_folds
from src.evaluation.metrics import build_metric
from tests.competition.building import random_multilabel, reference, table_of

AUC = build_metric("roc_auc", "binary")
ACCURACY = build_metric("accuracy", "multiclass")


def test_auto_is_stratified_as_in_scikit_learn():
    labels = np.arange(60) % 3 == 0
    expected = reference(StratifiedKFold(5, shuffle=True, random_state=7), labels, labels)
    for method in ("auto", "stratified"):
        folds = make_folds(table_of(labels), method, 5, 7, AUC)
        assert folds.dtype == np.int64
        assert folds.tolist() == expected.tolist()
    one_hot = np.eye(3)[np.arange(60) % 3]
    classes = np.arange(60) % 3
    expected = reference(StratifiedKFold(5, shuffle=True, random_state=7), classes, classes)
    for targets in (one_hot, 0.8 * one_hot + 0.1 * (1 - one_hot)):  # soft targets: the largest is the class
        folds = make_folds(table_of(targets), "auto", 5, 7, AUC)
        for column in range(3):
            assert np.bincount(folds[classes == column]).tolist() == [4] * 5
        assert np.bincount(folds).tolist() == np.bincount(expected).tolist()


def test_auto_with_groups_keeps_them_whole_and_stratified():
    rng = np.random.default_rng(1)
    groups, labels = rng.integers(0, 40, 200), (rng.random(200) < 0.3).astype(float)
    table = table_of(labels, groups)
    folds = make_folds(table, "auto", 4, 3, AUC)
    names = table.groups
    assert (
        folds.tolist()
        == reference(StratifiedGroupKFold(4, shuffle=True, random_state=3), labels, labels.astype(int), names).tolist()
    )
    assert pd.Series(folds).groupby(names).nunique().max() == 1
    check_folds(table, folds, AUC)
    for method in ("group", "holdout"):
        assert pd.Series(make_folds(table, method, 4, 3, AUC)).groupby(names).nunique().max() == 1


@pytest.mark.parametrize(("num_folds", "num_classes"), [(2, 1), (5, 1), (10, 3), (3, 9)])
def test_grouped_folds_are_scikit_learns_own(num_folds, num_classes):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        numbers = rng.integers(0, 100, 400)
        targets = np.eye(num_classes)[rng.integers(0, num_classes, 400)] if num_classes > 1 else numbers % 7 < 2
        groups = [f"g{number}" for number in (rng.gamma(1.0, 12.0, 400).astype(int) if seed % 2 else numbers)]
        table = table_of(targets, groups)
        classes = -table.targets.argmax(axis=1) if num_classes > 1 else table.targets[:, 0]
        splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
        expected = reference(splitter, classes, classes, table.groups)
        np.testing.assert_array_equal(make_folds(table, "stratified_group", num_folds, seed, ACCURACY), expected)


def test_several_labels_are_spread_evenly():
    table = table_of(random_multilabel())
    folds = make_folds(table, "auto", 4, 0, AUC)
    assert folds.tolist() == make_folds(table, "multilabel", 4, 0, AUC).tolist()
    counts = np.array([table.targets[folds == fold].sum(axis=0) for fold in range(4)])
    assert (np.ptp(counts, axis=0) <= 2).all()
    check_folds(table, folds, build_metric("roc_auc", "multilabel"))


def test_several_labels_with_groups_keep_groups_whole():
    targets = np.repeat(random_multilabel(), 3, axis=0)
    table = table_of(targets, np.repeat(np.arange(120), 3))
    for method in ("auto", "stratified_group"):
        folds = make_folds(table, method, 4, 0, AUC)
        assert pd.Series(folds).groupby(table.groups).nunique().max() == 1
        counts = np.array([targets[folds == fold].sum(axis=0) for fold in range(4)])
        assert (np.ptp(counts, axis=0) <= 6).all()
        assert np.bincount(folds).min() >= 80

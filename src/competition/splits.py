"""How rows are split into parts: stratified, by groups, of several labels at once; scikit-learn's and iterstrat's door.

A split is a function (table, num_folds, seed) -> (N,) int64, the number of the part that each row is in.
"""

import warnings

import numpy as np
import pandas as pd
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from src.errors import UserError


def _split_stratified(table, num_folds, seed):
    classes = _classes(table.targets, num_folds)
    return _assign(StratifiedKFold(num_folds, shuffle=True, random_state=seed), len(table), classes)


def _split_stratified_group(table, num_folds, seed):
    classes = _classes(table.targets, num_folds)
    splitter = _FastStratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    return _assign(splitter, len(table), classes, _number_groups(table))


class _FastStratifiedGroupKFold(StratifiedGroupKFold):
    """scikit-learn's very folds, but a group is tried in all folds at once: seconds for a million rows, not minutes."""

    def _find_best_fold(self, y_counts_per_fold, y_cnt, group_y_counts):
        """Return the fold that leaves the classes spread most evenly; of equally good ones the smallest."""
        num_folds, num_classes = y_counts_per_fold.shape
        every = np.arange(num_folds)
        counts = np.repeat(y_counts_per_fold[None], num_folds, axis=0)  # (fold that is tried, fold, class)
        counts[every, every] += group_y_counts
        shares = counts / y_cnt
        shares -= np.add.reduce(shares, axis=1, keepdims=True) / num_folds
        # np.std and np.mean written out, as their own checks take longer than the sums
        std = np.sqrt(np.add.reduce(shares * shares, axis=1) / num_folds)
        spreads = (np.add.reduce(std, axis=1) / num_classes).tolist()
        sizes = np.add.reduce(y_counts_per_fold, axis=1).tolist()
        best = 0
        for fold in range(1, num_folds):
            is_tie = abs(spreads[fold] - spreads[best]) <= 1e-8 + 1e-5 * spreads[best]  # np.isclose
            if spreads[fold] < spreads[best] or (is_tie and sizes[fold] < sizes[best]):
                best = fold
        return best


def _split_group(table, num_folds, seed):
    splitter = GroupKFold(num_folds, shuffle=True, random_state=seed)
    return _assign(splitter, len(table), groups=_number_groups(table))


def _split_rows(table, num_folds, seed):
    return _assign(KFold(num_folds, shuffle=True, random_state=seed), len(table))


def _split_multilabel(table, num_folds, seed):
    """Iterative stratification: the rarest label is dealt out first.

    Reference: Sechidis et al., On the Stratification of Multi-Label Data, 2011, ECML PKDD.
    """
    is_positive = positives(table.targets, False).astype(np.int64)
    return _assign(MultilabelStratifiedKFold(num_folds, shuffle=True, random_state=seed), len(table), is_positive)


def _split_multilabel_group(table, num_folds, seed):
    """Iterative stratification of whole groups; a group has each label that one of its rows has."""
    group_of_row = _number_groups(table)
    has_label = np.zeros((group_of_row.max() + 1, table.targets.shape[1]), dtype=np.int64)
    np.maximum.at(has_label, group_of_row, positives(table.targets, False))
    splitter = MultilabelStratifiedKFold(num_folds, shuffle=True, random_state=seed)
    return _assign(splitter, len(has_label), has_label)[group_of_row]


SPLITS = {
    "stratified": _split_stratified,
    "group": _split_group,
    "stratified_group": _split_stratified_group,
    "multilabel": _split_multilabel,
    "multilabel_group": _split_multilabel_group,
    "kfold": _split_rows,
}


def _assign(splitter, num_rows, classes=None, groups=None):
    """Return the number of the part that validates each row."""
    folds = np.full(num_rows, -1, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class smaller than the folds: check_folds says it better
        for fold, (_, rows) in enumerate(splitter.split(np.zeros((num_rows, 1)), classes, groups)):
            folds[rows] = fold
    return folds


def _number_groups(table):
    """Return (N,) int64: each row's group as its place among the sorted groups; strings themselves sort slowly."""
    return pd.factorize(table.groups, sort=True)[0]


def is_one_class_a_row(targets):
    return targets.shape[1] == 1 or bool(np.allclose(targets.sum(axis=1), 1, atol=1e-3))


def positives(targets, is_one_class):
    """Return (N, C) bool: which columns are true of a row."""
    if is_one_class and targets.shape[1] > 1:
        return targets.argmax(axis=1)[:, None] == np.arange(targets.shape[1])
    return targets >= 0.5


def _classes(targets, num_folds):
    """Return (N,) int64: rows with the same positives have the same number."""
    bits = np.packbits(positives(targets, is_one_class_a_row(targets)), axis=1)
    classes = pd.DataFrame(bits).groupby(list(range(bits.shape[1])), sort=True).ngroup().to_numpy()
    if (largest := np.bincount(classes).max()) == 1:
        raise UserError("folds: every class has one row only, so none could be learned and scored; add images to each")
    if largest < num_folds:
        raise UserError(f"num_folds={num_folds}: the largest class has only {largest} rows; lower num_folds")
    return classes

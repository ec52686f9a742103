"""SPLITS: how rows are split into folds, by functions (table, num_folds, seed) -> (N,) int64, each row's fold."""

import warnings

import numpy as np
import pandas as pd
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold


def split_stratified(table, num_folds, seed):
    """Spread every class evenly over the folds."""
    classes = number_classes(table.strata)
    if np.bincount(classes).max() >= num_folds:
        return _assign(StratifiedKFold, num_folds, seed, len(table), classes)
    # scikit-learn wants one class that large; here a fold gets at most one row of each
    shuffled, folds = np.random.default_rng(seed).permutation(len(table)), np.empty(len(table), dtype=np.int64)
    folds[shuffled[np.argsort(classes[shuffled], kind="stable")]] = np.arange(len(table)) % num_folds
    return folds


def split_group(table, num_folds, seed):
    """Keep groups whole."""
    groups = pd.factorize(table.groups, sort=True)[0]  # as numbers, since strings sort slowly
    return _assign(GroupKFold, num_folds, seed, len(table), groups=groups)


def split_stratified_group(table, num_folds, seed):
    """Keep groups whole, and spread every class (with several labels a row: every label) evenly."""
    groups = pd.factorize(table.groups, sort=True)[0]
    if not is_one_class_a_row(table.strata):
        has_label = np.zeros((groups.max() + 1, table.targets.shape[1]), dtype=np.int64)
        np.maximum.at(has_label, groups, table.strata)  # those that one of the group's rows has
        return _assign(MultilabelStratifiedKFold, num_folds, seed, len(has_label), has_label)[groups]
    classes = number_classes(table.strata)
    if np.bincount(classes).max() < num_folds:  # which scikit-learn refuses
        return split_group(table, num_folds, seed)
    return _assign(StratifiedGroupKFold, num_folds, seed, len(table), classes, groups)


def split_multilabel(table, num_folds, seed):
    """Spread every label evenly, the rarest first (Sechidis et al., 2011, ECML PKDD); one class a row as stratified."""
    if is_one_class_a_row(table.strata):
        return split_stratified(table, num_folds, seed)
    return _assign(MultilabelStratifiedKFold, num_folds, seed, len(table), table.strata.astype(np.int64))


SPLITS = {
    "stratified": split_stratified,
    "group": split_group,
    "stratified_group": split_stratified_group,
    "multilabel": split_multilabel,
    "kfold": lambda table, num_folds, seed: _assign(KFold, num_folds, seed, len(table)),
}


def is_one_class_a_row(is_positive):
    return is_positive.shape[1] == 1 or bool((is_positive.sum(axis=1) == 1).all())


def number_classes(is_positive):
    """Return (N,) int64: rows with the same positives (N, C) bool have the same number."""
    bits = np.packbits(is_positive, axis=1)
    return pd.DataFrame(bits).groupby(list(range(bits.shape[1])), sort=True).ngroup().to_numpy()


def _assign(splitter, num_folds, seed, num_rows, classes=None, groups=None):
    splitter = splitter(num_folds, shuffle=True, random_state=seed)
    folds = np.full(num_rows, -1, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class smaller than the folds, which check_folds judges
        for fold, (_, rows) in enumerate(splitter.split(np.zeros((num_rows, 1)), classes, groups)):
            folds[rows] = fold
    return folds

"""Duplicate images: within train, with different labels, in different folds, and between train and test."""

import dataclasses

import numpy as np

from src.competition.folds import make_folds
from src.errors import UserError
from tools.doctor.findings import MAX_NAMES, Finding
from tools.doctor.images import is_blank
from tools.doctor.similarity import Pairs, connect, find_pairs

_NUM_SHOWN = 12  # pairs whose images are on the page


def find_copies(data):
    """Return the similarity.Pairs among all images of a `CompetitionData` that can be read and are not blank."""
    scan = data.scan
    rows = np.flatnonzero(scan.is_read & ~is_blank(scan))
    return find_pairs(scan.digests, scan.hashes, scan.thumbnails, rows)


def check_copies(data, pairs, folds_path):
    """Return the findings about the pairs of `find_copies`.

    Args:
        folds_path: file that folds which keep copies together are written to, for the advice.
    """
    sides = data.is_test[pairs.first].astype(int) + data.is_test[pairs.second]
    in_train = sides == 0
    is_conflict, is_split = in_train & _differ(_label_codes(data), pairs), in_train & _differ(data.folds, pairs)
    findings = []
    for is_exact, how, hard in ((True, "the same", "error"), (False, "nearly the same", "warning")):
        for severity, is_in, title, advice, *words in (
            (
                hard,
                is_conflict,
                f"pairs of {how} training images with different labels",
                "look at them: correct the labels, or remove both; one of the two is always predicted wrong",
            ),
            (
                hard,
                is_split,
                f"pairs of {how} images in two folds: each is validated by a model that was trained on it",
                f"keep one of each, or train on folds that keep copies together: folds={folds_path}",
                f"folds={folds_path}",
            ),
            (
                "warning",
                sides == 1,
                f"pairs of {how} images, one in train and one in test",
                "their test score says nothing about new images; their labels are in the training table, and the host "
                "may drop the rows",
            ),
            (
                "note",
                in_train & ~is_conflict & ~is_split,
                f"pairs of {how} training images, with one label and in one fold",
                "they count twice, which does no other harm; remove one of each if they are many",
            ),
            ("note", sides == 2, f"pairs of {how} test images", "check that they get one prediction"),
        ):
            if some := pairs.take(is_in & (pairs.is_exact == is_exact)):
                findings.append(_describe(data.names, some, severity, title, advice, words))
    return findings


def are_separated(data, pairs):
    """Whether any of the pairs is in two folds."""
    in_train = ~data.is_test[pairs.first] & ~data.is_test[pairs.second]
    return bool((in_train & _differ(data.folds, pairs)).any())


def make_joint_folds(data, pairs):
    """Return folds (N,) of the training rows that keep copies and groups together; None where there are none.

    They are split by folds=auto, with groups that copies connect merged.
    """
    table, in_train = data.train, ~data.is_test[pairs.first] & ~data.is_test[pairs.second]
    links = pairs.take(in_train)
    if table.groups is not None:
        order = np.argsort(table.groups, kind="stable")
        is_same = table.groups[order][1:] == table.groups[order][:-1]
        first, second = order[:-1][is_same], order[1:][is_same]
        links = Pairs(np.concatenate([links.first, first]), np.concatenate([links.second, second]), None)
    clusters = connect(len(table), links).astype(str)
    try:
        joint, config = dataclasses.replace(table, groups=clusters), data.config
        return make_folds(joint, "auto", config.num_folds, config.fold_seed, data.metric)
    except UserError:  # too few groups, which check_split reports
        return None


def _describe(names, pairs, severity, title, advice, words):
    first, second = pairs.first[:MAX_NAMES].tolist(), pairs.second[:MAX_NAMES].tolist()
    rows = tuple(zip(first, second, strict=True))
    named = tuple(f"{names[one]} = {names[other]}" for one, other in rows)
    return Finding(severity, f"{len(pairs)} {title}", advice, named, len(pairs), rows[:_NUM_SHOWN], tuple(words))


def _label_codes(data):
    """Return (N,) int, equal for rows with equal labels; None where they are not known."""
    if data.train is None or data.train.targets is None:
        return None
    labels = data.train.targets if data.train.task == "regression" else data.train.positives
    return np.unique(labels, axis=0, return_inverse=True)[1].ravel()


def _differ(values, pairs):
    """Return (P,) bool: whether the two of a pair differ; values are of the training rows, the first of the scan."""
    if values is None:
        return np.zeros(len(pairs), bool)
    last = len(values) - 1
    return values[np.minimum(pairs.first, last)] != values[np.minimum(pairs.second, last)]

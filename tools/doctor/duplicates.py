"""Copies of one picture: within train, with other answers, in other folds, and between train and test."""

import dataclasses

import numpy as np

from src.competition.folds import make_folds
from src.errors import UserError
from tools.doctor.findings import MAX_NAMES, Finding
from tools.doctor.images import is_blank
from tools.doctor.similarity import Pairs, connect, find_pairs

_SHOWN = 12  # pairs whose pictures are on the page


def find_copies(case):
    """Return the similarity.Pairs of all images of a `case.Case` that can be read and are not blank."""
    scan = case.scan
    rows = np.flatnonzero(scan.is_read & ~is_blank(scan))
    return find_pairs(scan.digests, scan.hashes, scan.thumbnails, rows)


def check_copies(case, pairs, folds_path):
    """Return the findings about the pairs of `find_copies`.

    Args:
        folds_path: where folds that keep copies together are written, for the advice.
    """
    sides = case.is_test[pairs.first].astype(int) + case.is_test[pairs.second]
    in_train = sides == 0
    is_conflict, is_torn = in_train & _differ(_answers(case), pairs), in_train & _differ(case.folds, pairs)
    findings = []
    for is_exact, how, hard in ((True, "the same", "error"), (False, "nearly the same", "warning")):
        for severity, is_in, title, advice in (
            (
                hard,
                is_conflict,
                f"pairs of {how} training pictures with different answers",
                "look at them: correct the answers, or remove both; what cannot be learned is counted as wrong",
            ),
            (
                hard,
                is_torn,
                f"pairs of {how} pictures in two folds, which are validated on what they learned",
                f"keep one of each, or train on folds that keep copies together: folds={folds_path}",
            ),
            (
                "warning",
                sides == 1,
                f"pairs of {how} pictures, one in train and one in test",
                "a test score of these says nothing about new pictures; the answers are in the training table, and the "
                "host may drop the rows",
            ),
            (
                "note",
                in_train & ~is_conflict & ~is_torn,
                f"pairs of {how} training pictures, with one answer and in one fold",
                "they count twice, and do no other harm; remove one of each if they are many",
            ),
            ("note", sides == 2, f"pairs of {how} test pictures", "look whether they get one prediction"),
        ):
            if some := pairs.take(is_in & (pairs.is_exact == is_exact)):
                findings.append(_describe(case.names, some, severity, title, advice))
    return findings


def is_torn(case, pairs):
    """Whether the case's folds part any of the pairs."""
    in_train = ~case.is_test[pairs.first] & ~case.is_test[pairs.second]
    return bool((in_train & _differ(case.folds, pairs)).any())


def make_joint_folds(case, pairs):
    """Return folds (N,) of the training rows that keep copies, and the table's groups, together; None: there are none.

    They are split by folds=auto, with groups that a chain of copies joins.
    """
    table, in_train = case.train, ~case.is_test[pairs.first] & ~case.is_test[pairs.second]
    links = pairs.take(in_train)
    if table.groups is not None:
        order = np.argsort(table.groups, kind="stable")
        is_same = table.groups[order][1:] == table.groups[order][:-1]
        first, second = order[:-1][is_same], order[1:][is_same]
        links = Pairs(np.concatenate([links.first, first]), np.concatenate([links.second, second]), None)
    clusters = connect(len(table), links).astype(str)
    try:
        return make_folds(dataclasses.replace(table, groups=clusters), "auto", case.config.num_folds, case.config.seed)
    except UserError:  # too few groups, which the checks of folds say better
        return None


def _describe(names, pairs, severity, title, advice):
    first, second = pairs.first[:MAX_NAMES].tolist(), pairs.second[:MAX_NAMES].tolist()
    rows = tuple(zip(first, second, strict=True))
    named = tuple(f"{names[one]} = {names[other]}" for one, other in rows)
    return Finding(severity, f"{len(pairs)} {title}", advice, named, len(pairs), rows[:_SHOWN])


def _answers(case):
    """Return (N,) int: rows with the same answers have the same number; None where they are not known."""
    if case.train is None or case.train.targets is None:
        return None
    return np.unique(case.train.targets >= 0.5, axis=0, return_inverse=True)[1].ravel()


def _differ(values, pairs):
    """Return (P,) bool: whether the two of a pair differ; values are of the training rows, which come first."""
    if values is None:
        return np.zeros(len(pairs), bool)
    last = len(values) - 1
    return values[np.minimum(pairs.first, last)] != values[np.minimum(pairs.second, last)]

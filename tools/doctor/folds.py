"""Folds: groups in two folds, columns that a fold cannot score, and the standard error of a fold's AUC."""

from dataclasses import replace

import numpy as np
import pandas as pd

from src.competition.folds import check_folds, describe_folds
from src.competition.splits import number_classes
from src.errors import UserError
from tools.doctor.findings import MAX_NAMES, Fact, Finding, make_finding, name_rows

_ASSUMED_AUC = 0.9  # of the model whose standard error is computed
_LARGE_ERROR = 0.05  # of a fold's AUC; a gain of .05 is then noise
_MAX_COLUMNS = 10  # columns that the facts list


def check_split(data):
    """Return (findings, facts) about the folds of a `CompetitionData`, and its groups in train and test."""
    findings, table, folds = [*_check_test_groups(data), *_check_stems(data)], data.train, data.folds
    if folds is None:
        return findings, []
    split = _find_split_groups(table.groups, folds)
    if len(split):
        findings.append(
            Finding(
                "error",
                f"{len(split)} groups ({data.config.competition.group}) are in two folds",
                "the out-of-fold score is too good: set folds=auto, which keeps groups together",
                **name_rows(split),
            )
        )
    elif fault := _find_fault(data):
        findings.append(make_finding(fault))
    if table.task == "regression":
        return findings, [_make_fact("folds: mean of each column", describe_folds(table, folds))]
    errors = compute_fold_errors(table.positives, folds)
    if (is_large := errors["error"] > _LARGE_ERROR).any():
        worst = errors[is_large].sort_values("error", ascending=False)
        fewer = " or lower num_folds" if folds.max() > 1 else ""
        named = [
            f"fold {row.fold}, {table.target_names[row.column]}: {row.positives} positives, +-{row.error:.3f}"
            for row in worst.itertuples()
        ]
        findings.append(
            Finding(
                "note",
                f"{len(worst)} of {len(errors)} AUCs of a fold and column have a standard error over {_LARGE_ERROR:g} "
                f"(at an AUC of {_ASSUMED_AUC:g})",
                f"compare models on the pooled out-of-fold score{fewer}; the score of a fold alone is too noisy",
                **name_rows(named),
            )
        )
    return findings, _describe(table, folds, errors)


def compute_auc_error(auc, num_positives, num_negatives):
    """Return the standard error of an ROC AUC of so many independent images; broadcasts.

    Reference: Hanley and McNeil, The Meaning and Use of the Area under a Receiver Operating Characteristic (ROC)
    Curve, 1982, Radiology 143, eq. 1, with Q1 and Q2 of the exponential approximation (eq. 2).
    """
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    positives, negatives = np.asarray(num_positives, dtype=float), np.asarray(num_negatives, dtype=float)
    spread = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return np.sqrt(spread / (positives * negatives))


def compute_fold_errors(targets, folds):
    """Return a table with a row per fold and column: fold, column (its index), positives, and error of the AUC.

    Columns without positives or negatives in a fold are left out. Images of one group are counted as independent, so
    that with groups the true error is somewhat larger.

    Args:
        targets: (N, C) in [0, 1]; positive from 0.5.
        folds: (N,) int; rows of negative folds validate nothing.
    """
    rows = []
    for fold in np.unique(folds[folds >= 0]):
        is_positive = targets[folds == fold] >= 0.5
        for column, positives in enumerate(is_positive.sum(axis=0).tolist()):
            negatives = len(is_positive) - positives
            if positives and negatives:
                error = float(compute_auc_error(_ASSUMED_AUC, positives, negatives))
                rows.append((int(fold), column, positives, error))
    return pd.DataFrame(rows, columns=["fold", "column", "positives", "error"])


def _find_fault(data):
    """Return what is wrong with the folds, or ""; constant columns, which no split can help, are left out."""
    table, folds = data.train, data.folds
    is_positive = table.positives
    varies = is_positive.any(axis=0) & ~is_positive.all(axis=0)
    if not varies.any():
        return ""
    names = tuple(np.array(table.target_names)[varies].tolist())
    try:
        part = replace(table, targets=table.targets[:, varies], target_names=names)
        check_folds(part, folds, replace(data.metric, weights=None), data.config)
    except UserError as error:
        return str(error)
    return ""


def _find_split_groups(groups, folds):
    """Return the groups (K,) str that are in several folds."""
    if groups is None:
        return np.zeros(0, dtype=str)
    pairs = pd.DataFrame({"group": groups, "fold": folds}).drop_duplicates()
    return np.unique(pairs["group"][pairs["group"].duplicated()].to_numpy(dtype=str))


def _check_test_groups(data):
    groups = [getattr(table, "groups", None) for table in (data.train, data.test)]
    if any(one is None for one in groups):
        return
    shared = np.intersect1d(*groups)
    if len(shared):
        yield Finding(
            "note",
            f"{len(shared)} groups ({data.config.competition.group}) are in train and in test",
            "test images have others of their group in train, validation images have none: the test score may be "
            "better than the out-of-fold score",
            **name_rows(shared),
        )


def propose_group(ids, classes, num_folds):
    """Return (setting, groups): competition.group as re: and (N,) str, of what many ids begin with; None: few share it.

    The shortest beginning counts that makes twice as many groups as folds, none of which has a fifth of the rows.
    It is none where it is the class: as many beginnings as classes.

    Args:
        ids: (N,) str.
        classes: (N,) int, rows of the same number have the same targets.
    """
    for pattern in (*(rf"^(.+)(?:[_\-/ ][^_\-/ ]+){{{count}}}$" for count in (3, 2, 1)), r"^(.*\d)[A-Za-z]+$"):
        ids = pd.Series(ids)
        groups = ids.str.extract(pattern)[0].fillna(ids)
        sizes = groups.map(groups.value_counts())
        is_many = (sizes > 1).mean() >= 0.5 and sizes.max() <= len(ids) / 5
        if is_many and groups.nunique() >= max(2 * num_folds, 1 + len(np.unique(classes))):
            return f"re:{pattern.replace('{1}', '')}", groups.to_numpy(dtype=str)
    return None


def _check_stems(data):
    table, competition = data.train, data.config.competition
    if table is None or table.targets is None or competition.group is not None or data.config.folds.endswith(".csv"):
        return
    if found := propose_group(table.ids, number_classes(table.strata), data.config.num_folds):
        setting, groups = found
        sizes = pd.Series(groups).value_counts()
        shown = [", ".join(table.ids[groups == one][:3]) for one in sizes.index[:MAX_NAMES] if sizes[one] > 1]
        yield Finding(
            "warning",
            f"{sizes[sizes > 1].sum()} of {len(table)} ids begin alike in groups, as {shown[0]} do, and no group is "
            "set",
            "images of one patient or scene in two folds make the out-of-fold score too good: where these belong "
            f"together, set 'competition.group={setting}'",
            names=tuple(shown),
            num_names=int((sizes > 1).sum()),
        )


def _describe(table, folds, errors):
    """Return the facts of folds: rows and positives of each, and the standard errors of `compute_fold_errors`."""
    by_fold = errors.pivot(index="column", columns="fold", values="error")
    rows = [
        (table.target_names[column], *("" if np.isnan(error) else f"{error:.3f}" for error in values))
        for column, values in zip(by_fold.index[:_MAX_COLUMNS], by_fold.to_numpy(), strict=False)
    ]
    lines = [f"{name}: {' '.join(filter(None, values))}" for name, *values in rows]
    if (num_columns := table.targets.shape[1]) > _MAX_COLUMNS:
        rows.append((f"... ({num_columns} columns in all)", *by_fold.max().map("at most {:.3f}".format)))
        lines.append(f"... ({num_columns} columns in all, the largest error is {errors['error'].max():.3f})")
    title = f"standard error of a fold's AUC, at an AUC of {_ASSUMED_AUC:g} (Hanley and McNeil, 1982)"
    header = ("", *(f"fold {fold}" for fold in by_fold.columns))
    counts = _make_fact("folds: positives of each column", describe_folds(table, folds))
    return [counts, *([Fact(title, tuple(lines), (header, *rows))] if rows else [])]


def _make_fact(title, frame):
    cells = tuple(tuple(f"{cell:.6g}" for cell in row) for row in frame.itertuples(index=False, name=None))
    lines = tuple(frame.to_string(index=False, line_width=76).splitlines())
    return Fact(title, lines, (tuple(map(str, frame.columns)), *cells))

"""Columns of answers -> targets (N, C) in [0, 1], checked; what a task needs of competition.targets and label."""

import math

import numpy as np
import pandas as pd

from src.errors import UserError, listing


def check_settings(competition):
    """Check that the competition's task, targets and label agree.

    Raises:
        UserError: neither or both of targets and label are set, or not as many as the task needs.
    """
    task, label, targets = competition.task, competition.label, competition.targets
    if not label and not targets:
        raise UserError(
            "competition.targets: neither targets nor label is set; set competition.targets=[COLUMN] (0/1) or "
            "competition.label=COLUMN (class names)"
        )
    if label and targets:
        raise UserError(
            f"competition.targets: both targets ({listing(targets)}) and label ({label}) are set; keep one of them"
        )
    if task == "multilabel" and label:
        raise UserError(
            f"competition.task=multilabel: label={label} holds one class a row; set competition.task=multiclass"
        )
    if targets and len(set(targets)) < len(targets):
        raise UserError(f"competition.targets: a column is named twice ({listing(targets)}); name each once")
    if targets and (len(targets) == 1) != (task == "binary"):
        needed, right = (
            ("one target", "multilabel or multiclass") if task == "binary" else ("several targets", "binary")
        )
        raise UserError(
            f"competition.task={task}: needs {needed}, found {len(targets)} ({listing(targets)}); "
            f"set competition.task={right}"
        )


def order_classes(names):
    """Return distinct class names sorted, by value when all are numbers."""
    names = sorted(set(names))
    try:
        numbers = [float(name) for name in names]
    except ValueError:
        return names
    return names if any(map(math.isnan, numbers)) else sorted(names, key=float)


def read_label(values, competition, where):
    """Turn class names into targets.

    Args:
        values: (N,) Series of str, the label column.
        where: the table's path, for errors.

    Returns: (target_names, targets); binary: the last class alone, multiclass: every class, one-hot.

    Raises:
        UserError: a value is missing or unknown, a class has no row, or there are too few or too many classes.
    """
    column, task = f"column {competition.label!r}", competition.task
    check_complete(values, where, column)
    found = order_classes(values)
    classes = competition.classes or found
    check_known(values, classes, where, column, "competition.classes")
    if len(found) == 1:
        raise UserError(
            f"{where}: {column} holds one class only ({found[0]}); nothing can be learned, set another label"
        )
    if absent := [name for name in classes if name not in set(found)]:
        raise UserError(
            f"{where}: {column} has no row of class {absent[0]!r} (found {listing(found)}); correct competition.classes"
        )
    if task == "binary" and len(classes) > 2:
        raise UserError(
            f"{where}: {column} holds {len(classes)} classes ({listing(classes)}); set competition.task=multiclass"
        )
    names = tuple(classes[-1:] if task == "binary" else classes)
    return names, one_hot(values, names)


def one_hot(values, names):
    """Return (N, C) float32: 1 where a value is the column's name."""
    codes = pd.Index(names, dtype=str).get_indexer(values)
    return (codes[:, None] == np.arange(len(names))).astype(np.float32)


def read_targets(rows, names, competition, where, may_be_constant=False):
    """Turn columns of numbers into targets (N, C).

    Args:
        rows: table of str that has the columns.
        names: the columns.
        where: the table's path, for errors.
        may_be_constant: a column may hold one value only.

    Raises:
        UserError: a value is missing, no number or outside what the task allows.
    """
    columns = []
    for name in names:
        column = f"column {name!r}"
        check_complete(rows[name], where, column)
        values = pd.to_numeric(rows[name], errors="coerce").to_numpy(dtype=np.float64)
        is_right = np.isin(values, (0, 1)) if competition.task == "binary" else (values >= 0) & (values <= 1)
        if not is_right.all():
            found = listing(rows[name][~is_right].unique(), 3)
            if competition.task == "binary":
                raise UserError(
                    f"{where}: {column} holds other values than 0 and 1 ({found}); set competition.targets=[] and "
                    f"competition.label={name} for class names"
                )
            raise UserError(f"{where}: {column} holds other values than 0 to 1 ({found}); correct them")
        if not may_be_constant and values.min() == values.max():
            raise UserError(
                f"{where}: {column} holds one class only ({rows[name].iloc[0]}); nothing can be learned, leave it out"
            )
        columns.append(values)
    targets = np.stack(columns, axis=1)
    if competition.task == "multiclass":
        sums = targets.sum(axis=1)
        if (is_off := np.abs(sums - 1) > 1e-3).any():
            line = int(np.flatnonzero(is_off)[0]) + 2
            raise UserError(
                f"{where}: {is_off.sum()} of {len(rows)} rows do not sum to 1 (first: line {line}, sum "
                f"{sums[is_off][0]:g}); correct them or set competition.task=multilabel"
            )
    return targets.astype(np.float32)


def check_complete(values, where, column):
    """Check that no cell is empty.

    Raises:
        UserError: some are.
    """
    if count := int(values.isna().sum()):
        line = int(np.flatnonzero(values.isna())[0]) + 2
        raise UserError(
            f"{where}: {column} is empty in {count} of {len(values)} rows (first: line {line}); fill or remove them"
        )


def check_known(values, classes, where, column, source):
    """Check that every value is one of the classes.

    Raises:
        UserError: one is not.
    """
    if unknown := order_classes(set(values.dropna()) - set(classes)):
        raise UserError(
            f"{where}: {column} holds {listing([repr(one) for one in unknown], 3)}, not among {source} "
            f"({listing(classes)}); correct it or competition.classes"
        )

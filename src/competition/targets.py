"""Columns of a table -> targets (N, C), in [0, 1] or of regression any; what is wrong raises a UserError, where `where`
names the table."""

import math
import warnings

import numpy as np
import pandas as pd

from src.errors import UserError, listing, nearest

_LARGEST = 1e15  # of regression's numbers: squares and their sums are far from float32's end
MOST_WORDS = 100  # of an auxiliary or a metadata column
_MISSING = ("NA", "N/A", "NaN", "nan", "<NA>", "null", "NULL")  # how tables write that a label is not known


def check_settings(competition):
    """Check that the competition's task, targets and label agree."""
    task, label, targets = competition.task, competition.label, competition.targets
    if not label and not targets:
        advice = "set competition.targets=[COLUMN] (0/1) or competition.label=COLUMN (class names)"
        raise UserError(f"competition.targets: neither targets nor label is set; {advice}")
    found = listing(targets)
    if label and targets:
        raise UserError(f"competition.targets: both targets ({found}) and label ({label}) are set; keep one of them")
    if task == "multilabel" and label and not competition.separator:
        found = f"label={label} holds one class a row"
        advice = "set competition.task=multiclass, or competition.separator to the text between a cell's labels"
        raise UserError(f"competition.task=multilabel: {found}; {advice}")
    if competition.separator is not None and not (label and task == "multilabel" and competition.separator):
        needs = "splits the cells of competition.label for competition.task=multilabel, and is one letter or more"
        raise UserError(f"competition.separator={competition.separator}: {needs}; set it to null or set these")
    for key in ("targets", "classes", "auxiliary", "metadata"):
        names = [name.strip() for name in getattr(competition, key)]
        if len(set(names)) < len(names):
            raise UserError(f"competition.{key}: a name is there twice ({listing(names)}); name each once")
    _check_columns(competition, "auxiliary", "targets", "label", "id")
    _check_columns(competition, "metadata", "targets", "label", "id", "group", "predict_by", "fold", "auxiliary")
    if task != "regression" and targets and (len(targets) == 1) != (task == "binary"):
        needs, right = ("one target", "multilabel or multiclass") if task == "binary" else ("several targets", "binary")
        found = f"needs {needs}, found {len(targets)} ({found})"
        raise UserError(f"competition.task={task}: {found}; set competition.task={right}")


def _check_columns(competition, setting, *others):
    names = getattr(competition, setting)
    for key in others:
        named = getattr(competition, key) or []
        if taken := [name for name in names if name in ([named] if isinstance(named, str) else named)]:
            found = f"{taken[0]!r} is competition.{key} already"
            raise UserError(f"competition.{setting}: {found}; leave it out of competition.{setting}")


def order_classes(names):
    """Return distinct class names sorted, by value when all are numbers."""
    names = sorted(set(names))
    try:
        numbers = [float(name) for name in names]
    except ValueError:
        return names
    return names if any(map(math.isnan, numbers)) else sorted(names, key=float)


def read_label(rows, competition, where, target_names=None):
    """Read the column of class names as (target_names, targets): binary the last class alone, else a column a class."""
    is_missing = _find_missing(rows, [competition.label], competition, where)[:, 0]
    labels = list_labels(rows, competition, where, target_names)
    if target_names is None:  # else training's, of which the table need not have every class
        column, found = f"column {competition.label!r}", order_classes(labels)
        classes = [name.strip() for name in competition.classes] or found
        if len(found) < 2:
            found = f"holds one class only ({listing(found) or 'no label'})"
            raise UserError(f"{where}: {column} {found}; nothing can be learned, set another label")
        if absent := [name for name in classes if name not in set(found)]:
            found = f"has no row of class {absent[0]!r} (found {listing(found)})"
            raise UserError(f"{where}: {column} {found}; correct competition.classes")
        if competition.task == "binary" and len(classes) > 2:
            found = f"{len(classes)} classes ({listing(classes)})"
            raise UserError(f"{where}: {column} holds {found}; set competition.task=multiclass")
        target_names = tuple(classes[-1:] if competition.task == "binary" else classes)
    labels = labels[labels.isin(target_names)]  # all, but of a binary label the last class alone
    targets = np.zeros((len(rows), len(target_names)), dtype=np.float32)
    targets[rows.index.get_indexer(labels.index), pd.Index(target_names, dtype=str).get_indexer(labels)] = 1
    targets[is_missing] = np.nan
    return target_names, targets


def split_labels(cells, separator):
    """Return the labels of cells, a Series of str with the cell's index; blanks around a label do not count."""
    labels = cells.fillna("").str.split(separator.strip() or separator, regex=False).explode().str.strip()
    return labels[labels != ""]


def list_labels(rows, competition, where, target_names=None):
    """Return the labels of all rows, a Series of str with the rows' index: none or one a row, or all of a cell.

    They must be among competition.classes, else training's target_names, of which binary lacks one: any other class.
    """
    cells, separator = read_column(rows, competition.label, where, "label", may_be_empty=True), competition.separator
    cells = cells[~_is_missing(cells, competition)]
    labels = cells if separator is None else split_labels(cells, separator)
    classes = [name.strip() for name in competition.classes] or list(target_names or ())
    if not competition.classes and target_names and competition.task == "binary":
        classes += [*labels[~labels.isin(target_names)].iloc[:1]]
    if classes and (is_unknown := ~labels.isin(classes)).any():
        unknown = listing([repr(one) for one in order_classes(labels[is_unknown])], 3)
        first = "" if where.startswith("competition.") else f" (first: line {labels.index[is_unknown][0] + 2})"
        source = "competition.classes" if target_names is None else "the classes of training"
        found = f"holds {unknown}{first}, not among {source} ({listing(classes)})"
        raise UserError(f"{where}: column {competition.label!r} {found}; correct it or competition.classes")
    return labels


def _is_missing(cells, competition):
    """Return (N,) bool: which cells hold no label; with a separator an empty one is known to have none."""
    texts, is_class = cells.fillna("").str.strip(), cells.isin(competition.classes)  # North America may be one
    return (texts.isin(_MISSING if competition.separator else (*_MISSING, "")) & ~is_class).to_numpy()


def _find_missing(rows, names, competition, where):
    """Return (N, C) bool: which labels are missing; a UserError where competition.missing is not drop."""
    cells = [read_column(rows, name, where, "label" if competition.label else "targets", True) for name in names]
    is_missing = np.stack([_is_missing(one, competition) for one in cells], axis=1)
    if is_missing.any() and competition.missing != "drop":
        row, column = np.argwhere(is_missing)[0]
        found = f"{is_missing.sum()} of {is_missing.size} labels are missing"
        columns = listing([repr(name) for name, one in zip(names, is_missing.T, strict=True) if one.any()], 4)
        text = cells[column].iloc[row]
        first = f"first: line {rows.index[row] + 2}, {'empty' if text != text else repr(text)}"
        unit = "cells" if len(names) > 1 and competition.task in ("multilabel", "regression") else "rows"
        advice = f"set competition.missing=drop to leave out these {unit}"
        raise UserError(f"{where}: {found} in column {columns} ({first}); fill them, or {advice}")
    return is_missing


def read_targets(rows, names, competition, where, may_be_constant=False):
    """Turn columns of numbers into targets (N, C), float32; may_be_constant: a column may hold one value only."""
    columns, is_regression = [], competition.task == "regression"
    lowest, highest = (-_LARGEST, _LARGEST) if is_regression else (0, 1)
    for name, is_missing in zip(names, _find_missing(rows, names, competition, where).T, strict=True):
        values = pd.to_numeric(rows[name].mask(is_missing), errors="coerce").to_numpy(dtype=np.float64)
        column = f"column {name!r}"
        is_right = is_missing | (values >= lowest) & (values <= highest)
        if not is_right.all():
            advice, wanted = "correct them", "finite numbers" if is_regression else "0 to 1"
            if competition.task == "binary":
                advice = f"set competition.targets=[] and competition.label={name} for class names"
            elif is_regression and not (is_right & ~is_missing).any():
                advice = "set competition.task=multiclass, or leave it out"
            found = listing(rows[name][~is_right].unique(), 3)
            raise UserError(f"{where}: {column} holds other values than {wanted} ({found}); {advice}")
        known = values[~is_missing]
        if not may_be_constant and (not len(known) or known.min() == known.max()):
            kind = "value" if is_regression else "class"
            found = f"holds one {kind} only ({rows[name][~is_missing].iloc[0] if len(known) else 'no label'})"
            raise UserError(f"{where}: {column} {found}; nothing can be learned, leave it out")
        columns.append(values)
    targets = np.stack(columns, axis=1)
    sums = targets.sum(axis=1)
    if competition.task == "multiclass" and (is_off := np.abs(sums - 1) > 1e-3).any():
        first = f"line {rows.index[is_off][0] + 2}, sum {sums[is_off][0]:g}"
        advice = "correct them or set competition.task=multilabel"
        raise UserError(f"{where}: {is_off.sum()} of {len(rows)} rows do not sum to 1 (first: {first}); {advice}")
    return targets.astype(np.float32)


def read_auxiliary(rows, competition, where):
    """Turn competition.auxiliary into (names (A,), values (N, A) float32, nan where a cell is missing); None: no names.

    A column of numbers is one of the A; one of words is a column of 0/1 for each, of one name, in their order.
    """
    names, columns = [], []
    for name in competition.auxiliary:
        cells, values = read_cells(rows, name, where, "auxiliary")
        words, are_numbers = order_classes(cells.dropna()), not (np.isnan(values) & cells.notna()).any()
        if len(words) < 2 or (are_numbers and np.nanmin(values) == np.nanmax(values)):
            found = f"holds one value only ({listing(words) or 'none'})"
            raise UserError(f"{where}: column {name!r} {found}; leave it out of competition.auxiliary")
        if are_numbers:
            found = values[:, None]
        elif len(words) <= MOST_WORDS:
            found = np.where(cells.notna().to_numpy()[:, None], cells.to_numpy()[:, None] == np.array(words), np.nan)
        else:
            found = f"holds too many words ({listing(words, 3)}), of which {MOST_WORDS} can be learned"
            raise UserError(f"{where}: column {name!r} {found}; leave it out of competition.auxiliary")
        names += [name] * found.shape[1]
        columns.append(found)
    return (tuple(names), np.concatenate(columns, axis=1, dtype=np.float32)) if columns else ((), None)


def standardize(targets):
    """Return (mean, deviation), each (C,) float64, of targets (N, C); nan does not count, 1 in place of a deviation 0.

    A column without any number has mean 0.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of an empty column
        targets = np.asarray(targets, np.float64)  # numpy's dtype= would still square in float32
        mean, deviation = np.nan_to_num(np.nanmean(targets, axis=0)), np.nanstd(targets, axis=0)
    return mean, np.where(deviation > 1e-9 * np.abs(mean), deviation, 1.0)  # else of one value, and rounding


def scale_auxiliary(values):
    """Return (mean, deviation, is_share), each (A,), of auxiliary columns (N, A); of shares, within [0, 1], 0 and 1."""
    is_share = (np.nanmin(values, axis=0) >= 0) & (np.nanmax(values, axis=0) <= 1)
    mean, deviation = standardize(values)
    return np.where(is_share, 0, mean), np.where(is_share, 1, deviation), is_share


def split_ranges(targets, count=10):
    """Return (N, S) bool, the range that each row of numbers (N, C) is in: of `count`, or fewer, of equally many rows.

    Equal numbers share a range. Several columns are ordered by their first principal component.
    """
    mean, deviation = standardize(targets)
    scaled = np.nan_to_num((targets - mean) / deviation)
    axis = np.linalg.eigh(scaled.T @ scaled)[1][:, -1]
    main = scaled @ np.copysign(axis, axis * axis[0])  # of either sign, as the machine's LAPACK has it
    ranks = pd.Series(main).rank(method="min").to_numpy(dtype=np.int64) - 1
    return (ranks * min(count, len(ranks)) // len(ranks))[:, None] == np.arange(count)


def read_column(rows, name, where, key, may_be_empty=False):
    """Return the column, (N,) Series of str, that competition.<key> names; may_be_empty: some of its cells are nan."""
    if name not in rows:
        hint = nearest(name, rows.columns) or f"; set competition.{key} to what the table has"
        raise UserError(f"{where}: no column {name!r} (found {listing(rows.columns)}){hint}")
    if not may_be_empty and (is_empty := rows[name].isna()).any():
        found = f"{is_empty.sum()} of {len(rows)} rows (first: line {rows.index[is_empty][0] + 2})"
        raise UserError(f"{where}: column {name!r} is empty in {found}; fill or remove them")
    return rows[name]


def read_cells(rows, name, where, key):
    """Return (cells, Series of str without outer blanks, nan where missing; (N,) float64, nan where no number)."""
    cells = read_column(rows, name, where, key, may_be_empty=True).str.strip()
    cells = cells.mask(cells.isin((*_MISSING, "")))
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)
    return cells, np.where(np.abs(numbers) < _LARGEST, numbers, np.nan)


def find_ids(rows, name, ids):
    """Return the column of a table that holds ids: `name`, else the first whose values are all among `ids`."""
    if name in rows:
        return name
    known = pd.Index(ids, dtype=str).str.strip()
    return next((one for one in rows if rows[one].str.strip().isin(known).all()), name)


def match_ids(wanted, found):
    """Return (rows, missing, extra): where each wanted id is among the found, (N,) int; the ids of only one of them.

    Blanks around an id do not count.
    """
    wanted, found = pd.Index(wanted, dtype=str).str.strip(), pd.Index(found, dtype=str).str.strip()
    rows = found.get_indexer(wanted)
    return rows, wanted[rows < 0], found[wanted.get_indexer(found) < 0]

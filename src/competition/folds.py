"""Which fold validates each training row: made once per seed, kept as a file, and checked before training.

A fold is a number from 0; -1 is a row that is always trained on.
"""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

from src.competition.splits import SPLITS, is_one_class_a_row, positives
from src.competition.tables import read_table
from src.competition.targets import check_complete
from src.errors import UserError, listing
from src.files import save_table

_NUM_ATTEMPTS = 5  # shuffles tried before folds that cannot be scored are handed out
_MAX_COLUMNS = 12  # targets that are described one by one


def load_folds(config, table, keep=True):
    """Return the fold of each row, (N,) int64: the user's file, else the one made before, else made now and kept.

    Kept in <output_dir>/folds/<competition>_<folds>_<num_folds>_seed<seed>.csv, with _by_<group> where there are
    groups, so that all runs share their folds.

    Args:
        config: src.config.settings.Config.
        table: competition.tables.ImageTable.
        keep: False writes no file.

    Raises:
        UserError: no such split can be made, or the file does not fit the table.
    """
    method, num_folds, seed = config.folds, config.num_folds, config.seed
    if method.endswith(".csv"):
        return _read_folds(method, table, "correct it, or choose folds=auto")
    if method == "column":
        return make_folds(table, method, num_folds, seed)
    name = f"{config.competition.name}_{method}_{num_folds}_seed{seed}"
    if config.competition.group is not None:
        name += "_by_" + re.sub(r"[^\w-]", "_", config.competition.group)
    path = Path(config.output_dir) / "folds" / f"{name}.csv"
    if path.is_file():
        return _read_folds(path, table, "the table has changed since: delete this file")
    folds = make_folds(table, method, num_folds, seed)
    if keep:
        save_table(path, pd.DataFrame({"id": table.ids, "fold": folds}))
    return folds


def make_folds(table, method, num_folds, seed):
    """Split the rows.

    Targets count as positive from 0.5; where each row sums to 1 its largest is its class.

    Args:
        table: competition.tables.ImageTable.
        method: one of config.FOLD_METHODS. auto: stratified_group with groups, else multilabel or stratified; holdout:
            a share of 1 / num_folds is fold 0, the other rows are -1; column: table.folds, renumbered from 0.
        num_folds: parts, at least 2.
        seed: of the shuffle. When a fold cannot be scored, the next seeds are tried.

    Returns: (N,) int64.

    Raises:
        UserError: fewer rows or groups than folds, or the table lacks what the method needs.
    """
    if method == "column":
        if table.folds is None:
            raise UserError("folds=column: the table has no folds; set competition.fold=COLUMN")
        return _renumber(table.folds, "folds=column")
    if method in ("group", "stratified_group") and table.groups is None:
        raise UserError(f"folds={method}: the table has no groups; set competition.group=COLUMN")
    is_one_class = is_one_class_a_row(table.targets)
    plain = "stratified" if is_one_class else "multilabel"
    grouped = "stratified_group" if is_one_class else "multilabel_group"
    kind = {
        "auto": plain if table.groups is None else grouped,
        "holdout": plain if table.groups is None else grouped,
        "multilabel": plain,
        "stratified_group": grouped,
    }.get(method, method)
    count = pd.Series(table.groups).nunique() if "group" in kind else len(table)
    if count < num_folds:
        raise UserError(
            f"num_folds={num_folds}: only {count} {'groups' if 'group' in kind else 'rows'} to split; lower num_folds"
        )
    for attempt in range(_NUM_ATTEMPTS):
        folds = SPLITS[kind](table, num_folds, seed + attempt)
        if method == "holdout":
            folds = np.where(folds == 0, 0, -1)
        if not _find_fault(table, folds, positives(table.targets, is_one_class)):
            break
    return folds


def check_folds(table, folds, task):
    """Check that every fold can be trained and scored.

    Args:
        table: competition.tables.ImageTable.
        folds: (N,) int64.
        task: binary, multiclass (each class against the rest) or multilabel.

    Raises:
        UserError: a group is on both sides of a fold, or a column lacks a positive or a negative on one side.
    """
    if fault := _find_fault(table, folds, positives(table.targets, task == "multiclass")):
        raise UserError(fault)


def describe_folds(table, folds):
    """Return a table with a line per fold: its rows, groups and positives of each column (of many: the fewest)."""
    is_positive = positives(table.targets, is_one_class_a_row(table.targets))
    groups = None if table.groups is None else pd.factorize(table.groups)[0]
    lines = []
    for fold in np.unique(folds):
        rows = folds == fold
        line = {"fold": int(fold), "rows": int(rows.sum())}
        if groups is not None:
            line["groups"] = len(np.unique(groups[rows]))
        counts = is_positive[rows].sum(axis=0).tolist()
        if len(counts) > _MAX_COLUMNS:
            lines.append(line | {"min positives": min(counts)})
        else:
            lines.append(line | dict(zip(table.target_names, counts, strict=True)))
    return pd.DataFrame(lines)


def count_folds(path):
    """Return how many folds of a run's folds.csv validate."""
    folds = read_table(path)["fold"].astype(int)
    return int(folds[folds >= 0].nunique())


def _find_fault(table, folds, is_positive):
    """Return what is wrong with the folds, or None."""
    if table.groups is not None:
        pairs = pd.DataFrame({"group": table.groups, "fold": folds}).drop_duplicates()
        torn = pairs[pairs["group"].duplicated(keep=False)]
        if len(torn):
            fold, count, first = torn["fold"].max(), torn["group"].nunique(), torn["group"].iloc[0]
            return (
                f"fold {fold}: {count} groups are in training and in validation (first: {first}); "
                "use folds=stratified_group or set competition.group=null"
            )
    numbers = np.unique(folds[folds >= 0])
    better = "stratified" if is_one_class_a_row(table.targets) else "multilabel"
    better = "auto" if table.groups is not None else better
    for fold in numbers:
        for side, rows in (("validation", folds == fold), ("training", folds != fold)):
            counts, total = is_positive[rows].sum(axis=0), int(rows.sum())
            if not total:
                return f"fold {fold}: no row is left for {side}; split into two folds or more"
            for sign, is_absent in (("positive", counts == 0), ("negative", counts == total)):
                if is_absent.any():
                    name = table.target_names[int(np.flatnonzero(is_absent)[0])]
                    return (
                        f"fold {fold}: column {name!r} has no {sign} in {side}; "
                        f"lower num_folds (now {len(numbers)}) or use folds={better}"
                    )
    return None


def _read_folds(path, table, hint):
    """Read a file of ids and folds, in the table's order."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; set folds=FILE with the columns id and fold, or folds=auto")
    rows = read_table(path)
    for name in ("id", "fold"):
        if name not in rows:
            raise UserError(
                f"{path}: no column {name!r} (found {listing(rows.columns)}); write the columns id and fold"
            )
        check_complete(rows[name], path, f"column {name!r}")
    if rows["id"].duplicated().any():
        raise UserError(f"{path}: id {rows['id'][rows['id'].duplicated()].iloc[0]} is there twice; {hint}")
    wanted, found = pd.Index(table.ids, dtype=str), pd.Index(rows["id"])
    missing, extra = found.get_indexer(wanted) < 0, wanted.get_indexer(found) < 0
    if missing.any() or extra.any():
        first = (table.ids[missing] if missing.any() else rows["id"].to_numpy()[extra])[0]
        raise UserError(
            f"{path}: {missing.sum()} training ids are missing and {extra.sum()} unknown ones are there "
            f"(first: {first}); {hint}"
        )
    folds = pd.to_numeric(rows.set_index("id")["fold"].loc[table.ids], errors="coerce").to_numpy(dtype=np.float64)
    if (is_odd := ~np.isfinite(folds) | (folds % 1 != 0)).any():
        raise UserError(f"{path}: the fold of id {table.ids[is_odd][0]} is no whole number; {hint}")
    return _renumber(folds.astype(np.int64), path)


def _renumber(folds, where):
    """Return the folds numbered from 0 without gaps; negative ones are -1."""
    numbers = np.unique(folds[folds >= 0])
    if len(np.unique(np.maximum(folds, -1))) < 2 or not len(numbers):
        raise UserError(f"{where}: all rows are in one fold; give two folds or more")
    return np.where(folds >= 0, np.searchsorted(numbers, folds), -1)

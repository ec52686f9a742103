"""Which fold, from 0, validates each training row (-1: none): made once per seed, saved, checked before training."""

import os
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from src.competition.splits import SPLITS, is_one_class_a_row, number_classes
from src.competition.tables import read_table
from src.competition.targets import match_ids, read_column
from src.errors import UserError, listing
from src.evaluation.metrics import build_metric, positives
from src.files import save_table

_NUM_ATTEMPTS = 5  # shuffles tried before folds that cannot be scored are handed out


def load_folds(config, table, keep=True):
    """Return the fold of each row, (N,) int64: the user's file, else the one made before, else made now and saved.

    Runs share <output_dir>/folds/<competition>_<folds>_<num_folds>_seed<seed>[_by_<group>].csv; keep=False saves none.
    """
    method, num_folds, seed, competition = config.folds, config.num_folds, config.seed, config.competition
    metric = build_metric(competition.metric, competition.task, **competition.metric_kwargs)
    if metric.weights is not None and len(metric.weights) != len(table.target_names):
        found = f"{len(metric.weights)} weights for {len(table.target_names)} columns ({listing(table.target_names)})"
        raise UserError(f"competition.metric_kwargs.weights: {found}; give one for each")
    if method.endswith(".csv"):
        return _read_folds(method, table, "correct it, or choose folds=auto")
    if method == "column":
        return make_folds(table, method, num_folds, seed, metric)
    by = "" if competition.group is None else "_by_" + re.sub(r"[^\w-]", "_", competition.group)
    path = Path(config.output_dir) / "folds" / f"{competition.name}_{method}_{num_folds}_seed{seed}{by}.csv"
    if path.is_file():
        return _read_folds(path, table, "the table has changed since: delete this file")
    folds = make_folds(table, method, num_folds, seed, metric)
    if keep:
        save_table(path, pd.DataFrame({"id": table.ids, "fold": folds}))
    return folds


def make_folds(table, method, num_folds, seed, metric):
    """Split the rows, (N,) int64; when a fold lacks what the metric needs, the next seeds are tried.

    method: a key of SPLITS; auto: stratified_group with groups, else multilabel; holdout: a share of 1 / num_folds is
    fold 0, the other rows are -1; column: table.folds, renumbered from 0.
    """
    if method == "column":
        if table.folds is None:
            raise UserError("folds=column: the table has no folds; set competition.fold=COLUMN")
        return _renumber(table.folds, "folds=column")
    default = "multilabel" if table.groups is None else "stratified_group"
    kind = default if method in ("auto", "holdout") else method
    if "group" in kind and table.groups is None:
        raise UserError(f"folds={method}: the table has no groups; set competition.group=COLUMN")
    unit, count = ("groups", pd.Series(table.groups).nunique()) if "group" in kind else ("rows", len(table))
    if count < num_folds:
        raise UserError(f"num_folds={num_folds}: only {count} {unit} to split; lower num_folds")
    for attempt in range(_NUM_ATTEMPTS):
        folds = SPLITS[kind](table, num_folds, seed + attempt)
        if method == "holdout":
            folds = np.where(folds == 0, 0, -1)
        with suppress(UserError):
            check_folds(table, folds, metric)
            return folds
    largest = np.bincount(number_classes(table.targets)).max()
    if metric.fold_needs == "both" and is_one_class_a_row(table.targets) and largest < num_folds:
        if largest == 1:
            raise UserError("folds: every class has one row only and cannot be learned and scored; add images to each")
        raise UserError(f"num_folds={num_folds}: the largest class has only {largest} rows; lower num_folds")
    return folds


def check_folds(table, folds, metric):
    """Check that a group is on one side of each fold, and that both sides hold what training and the metric need."""
    if table.groups is not None:
        pairs = pd.DataFrame({"group": table.groups, "fold": folds}).drop_duplicates()
        if len(torn := pairs[pairs["group"].duplicated(keep=False)]):
            fold, count, first = torn["fold"].max(), torn["group"].nunique(), torn["group"].iloc[0]
            advice = "use folds=stratified_group or set competition.group=null"
            raise UserError(f"fold {fold}: {count} groups are in training and in validation (first: {first}); {advice}")
    numbers, is_positive = np.unique(folds[folds >= 0]), metric.positives(table.targets)
    better = "stratified" if is_one_class_a_row(table.targets) else "multilabel"
    advice = f"lower num_folds (now {len(numbers)}) or use folds={'auto' if table.groups is not None else better}"
    for fold in numbers:
        for side, rows in (("validation", folds == fold), ("training", folds != fold)):
            counts, total = is_positive[rows].sum(axis=0), int(rows.sum())
            if not total:
                raise UserError(f"fold {fold}: no row is left for {side}; split into two folds or more")
            for sign, is_absent in (("positive", counts == 0), ("negative", counts == total)):
                if metric.fold_needs == "both" and is_absent.any():
                    name = table.target_names[int(np.flatnonzero(is_absent)[0])]
                    raise UserError(f"fold {fold}: column {name!r} has no {sign} in {side}; {advice}")


def describe_folds(table, folds):
    """Return a table with a line per fold: its rows, groups and positives of each column (of many: the fewest)."""
    is_positive = positives(table.targets, is_one_class_a_row(table.targets))
    by_fold = pd.DataFrame(is_positive, columns=list(table.target_names)).groupby(folds)
    lines = by_fold.sum()
    if len(lines.columns) > 12:
        lines = lines.min(axis=1).to_frame("min positives")
    lines.insert(0, "rows", by_fold.size(), allow_duplicates=True)
    if table.groups is not None:
        lines.insert(1, "groups", pd.Series(table.groups).groupby(folds).nunique(), allow_duplicates=True)
    return lines.rename_axis("fold").reset_index()


def count_folds(path):
    """Return how many folds of a run's folds.csv validate."""
    folds = read_table(path)["fold"].astype(int)
    return int(folds[folds >= 0].nunique())


def _read_folds(path, table, hint):
    """Read a file of ids and folds, in the table's order."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; set folds=FILE with the columns id and fold, or folds=auto")
    rows = read_table(path)
    for name in ("id", "fold"):
        if name not in rows:
            raise UserError(f"{path}: no column {name!r} (found {listing(rows)}); write the columns id and fold")
        read_column(rows, name, path, name)
    if rows["id"].duplicated().any():
        raise UserError(f"{path}: id {rows['id'][rows['id'].duplicated()].iloc[0]} is there twice; {hint}")
    places, missing, extra = match_ids(table.ids, rows["id"])
    if len(missing) or len(extra):
        found = f"{len(missing)} training ids are missing and {len(extra)} unknown ones are there"
        raise UserError(f"{path}: {found} (first: {[*missing, *extra][0]}); {hint}")
    folds = pd.to_numeric(rows["fold"], errors="coerce").to_numpy(dtype=np.float64)[places]
    if (is_odd := ~np.isfinite(folds) | (folds % 1 != 0)).any():
        raise UserError(f"{path}: the fold of id {table.ids[is_odd][0]} is no whole number; {hint}")
    return _renumber(folds.astype(np.int64), path)


def _renumber(folds, where):
    """Return the folds numbered from 0 without gaps; negative ones are -1."""
    numbers = np.unique(folds[folds >= 0])
    if len(np.unique(np.maximum(folds, -1))) < 2 or not len(numbers):
        raise UserError(f"{where}: all rows are in one fold; give two folds or more")
    return np.where(folds >= 0, np.searchsorted(numbers, folds), -1)

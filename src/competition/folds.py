"""Which fold, from 0, validates each training row (-1: none): made once per seed, saved, checked before training."""

import math
import os
import re
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from src.competition.splits import SPLITS
from src.competition.tables import read_folds, read_ids, read_table
from src.competition.targets import match_ids
from src.errors import UserError, listing
from src.evaluation.metrics import build_metric
from src.files import save_table

_MOST_GRADES = 1000
_NUM_ATTEMPTS = 5  # shuffles tried before folds that cannot be scored are handed out


def load_folds(config, table, keep=True):
    """Return the fold of each row, (N,) int64: the user's file, else the one made before, else made now and saved.

    Runs share <output_dir>/folds/<competition>_<folds>_<num_folds>_seed<fold_seed>[_by_<group>].csv; keep=False saves
    none.
    """
    method, num_folds, seed, competition = config.folds, config.num_folds, config.fold_seed, config.competition
    metric = build_metric(competition.metric, competition.task, **competition.metric_kwargs)
    if metric.weights is not None and len(metric.weights) != len(table.target_names):
        found = f"{len(metric.weights)} weights for {len(table.target_names)} columns ({listing(table.target_names)})"
        raise UserError(f"competition.metric_kwargs.weights: {found}; give one for each")
    for name, column in zip(table.target_names, table.targets.T, strict=True) if metric.takes == "classes" else ():
        known = column[~np.isnan(column)]
        if table.task == "regression" and ((known % 1 != 0).any() or np.ptp(known) >= _MOST_GRADES):
            found = f"column {name!r} holds numbers from {known.min():g} to {known.max():g}, not whole grades"
            raise UserError(f"competition.metric={metric.name}: {found}; set competition.metric=rmse")
    if method.endswith(".csv"):
        return _read_folds(method, table, "correct it, or choose folds=auto")
    if method == "column":
        return make_folds(table, method, num_folds, seed, metric)
    by = "" if competition.group is None else "_by_" + re.sub(r"[^\w-]", "_", competition.group)
    if re.match(r"re:|.*\{", competition.group or ""):  # of which two may look alike by then
        by += f"_{zlib.crc32(competition.group.encode()):08x}"
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
    if (count := _count_units(table, kind)) < num_folds:
        unit = "groups" if "group" in kind else "rows"
        advice = _advise(table, metric, method, num_folds, seed)
        raise UserError(f"num_folds={num_folds}: only {count} {unit} to split; {advice}")
    for attempt in range(_NUM_ATTEMPTS):
        folds = SPLITS[kind](table, num_folds, seed + attempt)
        if method == "holdout":
            folds = np.where(folds == 0, 0, -1)
        if next(_find_faults(table, folds, metric), None) is None:
            break
    return folds


def check_folds(table, folds, metric, config=None):
    """Check that a group is on one side of each fold, and that both sides hold what training and the metric need.

    config: the Config that made the folds, on which the advice is tried; None: there is none.
    """
    if table.groups is not None:
        pairs = pd.DataFrame({"group": table.groups, "fold": folds}).drop_duplicates()
        if len(torn := pairs[pairs["group"].duplicated(keep=False)]):
            fold, count, first = torn["fold"].max(), torn["group"].nunique(), torn["group"].iloc[0]
            advice = "use folds=stratified_group or set competition.group=null"
            raise UserError(f"fold {fold}: {count} groups are in training and in validation (first: {first}); {advice}")
    if len(np.unique(folds)) == 1:
        side = "training" if folds[0] >= 0 else "validation"
        raise UserError(f"fold {max(folds[0], 0)}: no row is left for {side}; split into two folds or more")
    if fault := next(_find_faults(table, folds, metric), None):
        how = () if config is None else (config.folds, config.num_folds, config.fold_seed)
        raise UserError(f"{fault}; {_advise(table, metric, *how) if how else 'choose other folds'}")


def _find_faults(table, folds, metric):
    """Yield what a side of each fold lacks for the metric, column by column."""
    is_positive, is_known = metric.positives(table.targets), ~np.isnan(table.targets)
    signs = {"positive": is_known & is_positive, "negative": is_known & ~is_positive}
    for fold in np.unique(folds[folds >= 0]):
        for side, rows in (("validation", folds == fold), ("training", folds != fold)):
            for sign, is_sign in signs.items() if metric.fold_needs == "both" else ():
                for column in np.flatnonzero(~is_sign[rows].any(axis=0)):
                    found = f"target {table.target_names[column]!r} has no {sign} in {side}"
                    yield f"fold {fold}: {found} ({is_sign[:, column].sum()} in all)"
        truth = table.targets[folds == fold]
        if math.isnan(metric.score(truth, truth)):
            yield f"fold {fold}: {metric.name} is not defined on its {len(truth)} validation rows"


def _advise(table, metric, method, num_folds, seed):
    """Return the setting that makes folds which can be scored: fewer of them where that works, else another metric."""
    other_metric = "rmse" if table.task == "regression" else "log_loss"
    if method == "column" or method.endswith(".csv"):
        source = method if method.endswith(".csv") else "competition.fold"
        return f"give each fold such rows in {source}, or set competition.metric={other_metric}, which needs none"
    is_positive, count = metric.positives(table.targets), min(num_folds, _count_units(table, method))
    is_negative = ~is_positive & ~np.isnan(table.targets)
    rarest = int(np.minimum(is_positive.sum(axis=0), is_negative.sum(axis=0)).min())
    fewer = min(count, num_folds - 1, rarest if metric.fold_needs == "both" else num_folds)
    for other, number in (("auto", num_folds), (method, fewer), (method, 2)):
        if (other, number) != (method, num_folds) and 1 < number <= _count_units(table, other):
            with suppress(UserError):
                check_folds(table, make_folds(table, other, number, seed, metric), metric)
                return f"set num_folds={number}" if other == method else f"set folds={other}"
    if count < 2:
        return "add images"
    fewer = "" if count == num_folds else f"num_folds={count} and "
    return f"set {fewer}competition.metric={other_metric}, which needs none, or add images"


def _count_units(table, method):
    """Return how many rows, or groups where these stay whole, a method of `make_folds` can deal out."""
    is_grouped = "group" in method or (method in ("auto", "holdout") and table.groups is not None)
    return len(np.unique(table.groups)) if is_grouped else len(table)


def describe_folds(table, folds):
    """Return a table with a line per fold: its rows, groups and positives of each column (of many: the fewest).

    Of regression it holds the means, of the first 12 columns.
    """
    columns = table.targets.astype(np.float64) if table.task == "regression" else table.positives
    by_fold = pd.DataFrame(columns, columns=list(table.target_names)).groupby(folds)
    lines = by_fold.mean().iloc[:, :12] if table.task == "regression" else by_fold.sum()
    if len(lines.columns) > 12:
        lines = lines.min(axis=1).to_frame("min positives")
    lines.insert(0, "rows", by_fold.size(), allow_duplicates=True)
    if table.groups is not None:
        lines.insert(1, "groups", pd.Series(table.groups).groupby(folds).nunique(), allow_duplicates=True)
    return lines.rename_axis("fold").reset_index(allow_duplicates=True)  # a target may be called so


def count_folds(path):
    """Return how many folds of a run's folds.csv validate."""
    folds = read_table(path)["fold"].astype(int)
    return int(folds[folds >= 0].nunique())


def _read_folds(path, table, hint):
    """Read a file of ids and folds, in the table's order."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; set folds=FILE with the columns id and fold, or folds=auto")
    rows = read_table(path)
    if absent := {"id", "fold"} - set(rows):
        raise UserError(f"{path}: no column {min(absent)!r} (found {listing(rows)}); write the columns id and fold")
    places, missing, extra = match_ids(table.ids, read_ids(rows, "id", path))
    if len(missing) or len(extra):
        found = f"{len(missing)} training ids are missing and {len(extra)} unknown ones are there"
        raise UserError(f"{path}: {found} (first: {[*missing, *extra][0]}); {hint}")
    return _renumber(read_folds(rows, "fold", path, hint)[places], path)


def _renumber(folds, where):
    """Return the folds numbered from 0 without gaps; negative ones are -1."""
    numbers = np.unique(folds[folds >= 0])
    if len(np.unique(np.maximum(folds, -1))) < 2 or not len(numbers):
        raise UserError(f"{where}: all rows are in one fold; give two folds or more")
    return np.where(folds >= 0, np.searchsorted(numbers, folds), -1)

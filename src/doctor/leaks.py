"""Leaks: whether the order of rows, a name, a file or a column tells the answer without the picture."""

import re

import numpy as np
import pandas as pd
from scipy.stats import norm, rankdata

from src.doctor.findings import Fact, Finding

_SIGNIFICANCE = 1e-3  # chance of one false alarm among all that is tried
_MATERIAL = {"order": 0.1, "name": 0.1, "time": 0.1, "file": 0.15, "column": 0.3}  # |AUC - .5| that is worth a finding
_ANSWER = 0.48  # |AUC - .5| of a column that is as good as the answer
_SIZE_STEP = 0.1  # of the logarithm of a file size: what is told apart
_SMALLEST = 5  # positives and negatives that an AUC is taken of
_SHOWN = 8


def compute_auc(is_positive, values):
    """Return the ROC AUC of values (N,) as a score of is_positive (N,) bool; ties count half.

    Reference: Fawcett, An introduction to ROC analysis, 2006, section 7: the Wilcoxon statistic.
    """
    positives = int(is_positive.sum())
    negatives = len(is_positive) - positives
    ranks = rankdata(values)
    return (ranks[is_positive].sum() - positives * (positives + 1) / 2) / (positives * negatives)


def compute_chance(auc, num_positives, num_negatives):
    """Return the two-sided p-value of an AUC where values and answers have nothing to do with each other.

    Reference: Mann and Whitney, On a Test of Whether one of Two Random Variables is Stochastically Larger than the
    Other, 1947, section 4: the variance (m + n + 1) / (12 m n); ties would make it smaller.
    """
    error = np.sqrt((num_positives + num_negatives + 1) / (12 * num_positives * num_negatives))
    return 2 * norm.sf(abs(auc - 0.5) / error)


def compute_category_auc(is_positive, values):
    """Return the ROC AUC of what a category's other rows answer, as a score of is_positive; below 0.5 by chance only.

    The rows are cut into random halves. Each half is scored by itself, with the shares of positives that its values
    have in the other half, so that no row's own answer is in its score; a value that is not there gets the half's
    share. One value for each row (an id) therefore tells nothing, and a patient's few pictures tell of each other.

    Args:
        is_positive: (N,) bool.
        values: (N,) of any type.

    Reference: Micci-Barreca, A preprocessing scheme for high-cardinality categorical attributes, 2001, SIGKDD
    Explorations 3, eq. 4, with one row's weight for the prior; the halves are ours.
    """
    codes = pd.factorize(values, use_na_sentinel=False)[0]
    is_first = np.random.default_rng(0).permutation(len(codes)) % 2 == 0
    aucs = []
    for half in (is_first, ~is_first):
        known, prior = codes[~half], is_positive[~half].mean()
        sums = np.bincount(known, is_positive[~half], minlength=codes.max() + 1)
        shares = (sums + prior) / (np.bincount(known, minlength=codes.max() + 1) + 1)
        if 0 < is_positive[half].sum() < half.sum():
            aucs.append(compute_auc(is_positive[half], shares[codes[half]]))
    return float(np.mean(aucs)) if aucs else 0.5


def list_clues(case):
    """Return {what it is: (kind, values (N,) float or str, of train)} of all that may betray an answer.

    Kinds are those of _MATERIAL; text is a category. A file's size counts against that of the picture encoded anew: a
    blurred picture takes few bytes because of what it shows, which is no leak; another encoder or source is one. The
    order of rows, names and times are left out where the images' paths are the table: a folder per class betrays its
    class by design.
    """
    scan, table, num = case.scan, case.train, case.num_train
    clues = {}
    if case.config.competition.train_table:
        names = [path.rpartition("/")[2].rpartition(".")[0] for path in table.paths]
        clues["the order of the table's rows"] = "order", np.arange(num, dtype=float)
        clues["the order of the ids"] = "name", _rank([_pad(one) for one in table.ids.tolist()])
        clues["the length of the file's name"] = "name", np.array([len(one) for one in names], dtype=float)
        clues["the letters of the file's name"] = "name", np.array([re.sub(r"\d+", "0", one) for one in names])
        clues["the time of the file"] = "time", scan.modified[:num]
    told = np.log(np.maximum(scan.num_bytes[:num], 1) / np.maximum(scan.encoded[:num], 1))
    clues["the size of the file"] = "file", np.round(told / _SIZE_STEP)
    clues["the picture's width"] = "file", scan.widths[:num].astype(float)
    clues["the picture's height"] = "file", scan.heights[:num].astype(float)
    clues["the picture's width / height"] = "file", scan.widths[:num] / np.maximum(scan.heights[:num], 1)
    clues["the kind of the file"] = "file", scan.kinds[:num]
    return clues


def list_columns(case):
    """Return {name: values (N,) float or str} of the table's columns that are neither answers nor what names a row."""
    competition = case.config.competition
    known = {competition.id, competition.label, competition.group, competition.fold, *competition.targets}
    columns = {}
    for name in case.train_rows.columns:
        if name not in known:
            numbers = pd.to_numeric(case.train_rows[name], errors="coerce")
            is_number = numbers.notna().all() and numbers.nunique() > 20
            columns[name] = (numbers if is_number else case.train_rows[name].fillna("(empty)")).to_numpy(
                dtype=float if is_number else str
            )
    return columns


def measure_clues(clues, targets):
    """Return a table with a row per clue and column of answers: clue, kind, column (its place), auc and chance.

    `auc` is folded to 0.5 or more for numbers. Columns with fewer than 5 positives or negatives are left out.

    Args:
        clues: of `list_clues`.
        targets: (N, C) in [0, 1]; positive from 0.5.
    """
    rows = []
    for clue, (kind, values) in clues.items():
        is_text = values.dtype.kind not in "if"
        if len(np.unique(values)) < 2:
            continue
        for column in range(targets.shape[1]):
            is_positive = targets[:, column] >= 0.5
            positives = int(is_positive.sum())
            negatives = len(is_positive) - positives
            if min(positives, negatives) < _SMALLEST:
                continue
            auc = (compute_category_auc if is_text else compute_auc)(is_positive, values)
            auc = auc if is_text else max(auc, 1 - auc)
            rows.append((clue, kind, column, auc, compute_chance(auc, positives, negatives)))
    return pd.DataFrame(rows, columns=["clue", "kind", "column", "auc", "chance"])


def check_leaks(case):
    """Return (findings, facts): what betrays the answers of a `case.Case` alone."""
    if case.train is None or case.train.targets is None:
        return [], []
    clues = list_clues(case) | {f"column {name!r}": ("column", one) for name, one in list_columns(case).items()}
    found = measure_clues(clues, case.train.targets)
    if not len(found):
        return [], []
    best = found.sort_values("auc", ascending=False, kind="stable").drop_duplicates("clue")
    is_sure = best["chance"] * len(found) < _SIGNIFICANCE  # Bonferroni: so many were tried
    is_material = best["auc"] - 0.5 >= best["kind"].map(_MATERIAL)
    findings = [_describe(case, row) for row in best[is_sure & is_material & (best["auc"] > 0.5)].itertuples()]
    names = case.train.target_names
    lines = [f"{row.auc:.3f}  {row.clue} ({names[row.column]})" for row in best.head(_SHOWN).itertuples()]
    return findings, [Fact("AUC of what is not the picture (best column of answers)", tuple(lines))]


def _describe(case, row):
    name = case.train.target_names[row.column]
    title = f"{row.clue} alone tells {name!r} with an AUC of {row.auc:.3f}"
    if row.kind == "column":
        return _describe_column(case, row, title)
    advice = {
        "order": "nothing reads the order, but it may hold for the test rows as well; shuffle before any split of your "
        "own",
        "name": "the host's ids betray the answer: a model cannot use them, but do not build on them; the test ids may "
        "show it too",
        "time": "the files were made class by class; nothing reads the time, but sizes and encoders may differ alike",
        "file": "the classes may come from different sources, cameras or encoders, which a network learns instead of "
        "the picture; make all pictures alike, and look at validation by source",
    }[row.kind]
    return Finding("note" if row.kind == "order" else "warning", title, advice)


def _describe_column(case, row, title):
    column = row.clue[len("column '") : -1]
    in_test = column in case.test_rows
    is_group = case.train_rows[column].nunique() > 0.05 * len(case.train) and row.auc > 0.5
    if row.auc - 0.5 >= _ANSWER and not is_group:
        advice = "it contains the answer; " + (
            "the test table has it too, so look at it before any network" if in_test else "leave it out of targets"
        )
        return Finding("warning" if in_test else "note", title, advice)
    if is_group and case.config.competition.group is None:
        return Finding(
            "warning",
            title,
            f"rows with one value share their answer, as pictures of one patient do: set competition.group={column}",
        )
    return Finding("note", title, "no network reads it; a second model on the table's columns may help")


def _rank(texts):
    """Return (N,) float: the place of each text among the sorted ones."""
    return np.unique(texts, return_inverse=True)[1].astype(float)


def _pad(text):
    """Return the text with its numbers padded, so that 2 sorts before 10."""
    return re.sub(r"\d+", lambda found: found[0].zfill(20), text)

"""Leaks: whether the order of rows, a name, a file or a column tells the answer without the picture."""

import numpy as np
import pandas as pd
from scipy.stats import norm, rankdata

from tools.doctor.clues import list_clues, list_columns
from tools.doctor.findings import Fact, Finding

_SIGNIFICANCE = 1e-3  # chance of one false alarm among all that is tried
_MATERIAL = {"order": 0.1, "name": 0.1, "time": 0.1, "file": 0.15, "column": 0.3}  # |AUC - .5| that is worth a finding
_ANSWER = 0.48  # |AUC - .5| of a column that is as good as the answer
_BETTER = 0.05  # of AUC, by which neighbours must tell more than their order to be told instead
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


def compute_neighbour_auc(is_positive, neighbours):
    """Return the ROC AUC of the share of positives among a row's neighbours, as a score of is_positive.

    A few neighbours weigh less than many: one more is counted that has the mean answer.

    Args:
        is_positive: (N,) bool.
        neighbours: (N, K) int, rows; -1 is none.
    """
    is_there = neighbours >= 0
    sums = (is_positive[neighbours] & is_there).sum(axis=1)
    return compute_auc(is_positive, (sums + is_positive.mean()) / (is_there.sum(axis=1) + 1))


def compute_design_effect(is_positive, groups):
    """Return how many rows tell as much as one independent row: 1 if groups answer no more alike than others do.

    Args:
        is_positive: (N,) bool.
        groups: (N,) str; None: each row is its own.

    Reference: Kish, Survey Sampling, 1965: 1 + (m - 1) rho; m is the size of a row's group, on average, and rho what
    groups explain of the variance.
    """
    codes = np.arange(len(is_positive)) if groups is None else pd.factorize(groups)[0]
    sizes = np.bincount(codes)
    if len(sizes) == len(codes):
        return 1.0
    means = np.bincount(codes, is_positive) / sizes
    within = np.square(is_positive - means[codes]).sum() / (len(codes) - len(sizes))
    rho = max(0.0, 1 - within / is_positive.var())
    return float(1 + (np.square(sizes).sum() / len(codes) - 1) * rho)


def measure_clues(clues, targets, groups=None):
    """Return a table with a row per clue and column of answers.

    Its columns are clue, kind, column (its place), auc (0.5 or more but for categories), is_turned (the AUC was below
    0.5), is_near (the values are neighbours) and chance. Columns with fewer than 5 positives or negatives are left out.
    A window of many neighbours is not turned: the row itself is not in it, by which it leans to the other answer.

    Args:
        clues: of `clues.list_clues`.
        targets: (N, C) in [0, 1]; positive from 0.5.
        groups: (N,) str, within which rows are not independent; None: all are.
    """
    columns, rows = [], []
    for column, is_positive in enumerate(targets.T >= 0.5):
        counts = np.array([is_positive.sum(), (~is_positive).sum()])
        if counts.min() >= _SMALLEST:
            columns.append((column, is_positive, counts / compute_design_effect(is_positive, groups)))
    for clue, (kind, values) in clues.items():
        is_near, is_text = values.ndim == 2, values.dtype.kind not in "if"
        if not is_near and len(np.unique(values)) < 2:
            continue
        measure = compute_neighbour_auc if is_near else compute_category_auc if is_text else compute_auc
        for column, is_positive, counts in columns:
            auc = measure(is_positive, values)
            is_turned = auc < 0.5 and not is_text and not (is_near and values.shape[1] > 2)
            # two rows that tell of each other are one coincidence, which counts twice
            chance = compute_chance(auc, *(counts / 2 if is_near or is_text else counts))
            rows.append((clue, kind, column, 1 - auc if is_turned else auc, is_turned, is_near, chance))
    return pd.DataFrame(rows, columns=["clue", "kind", "column", "auc", "is_turned", "is_near", "chance"])


def check_leaks(case):
    """Return (findings, facts): what betrays the answers of a `case.Case` alone.

    Of one order, of names and of times only what tells most is a finding.
    """
    if case.train is None or case.train.targets is None:
        return [], []
    clues = list_clues(case) | {f"column {name!r}": ("column", one) for name, one in list_columns(case).items()}
    found = measure_clues(clues, case.train.targets, case.train.groups)
    if not len(found):
        return [], []
    best = found.sort_values("auc", ascending=False, kind="stable").drop_duplicates("clue")
    is_sure = best["chance"] * len(found) < _SIGNIFICANCE  # Bonferroni: so many were tried
    is_material = best["auc"] - 0.5 >= best["kind"].map(_MATERIAL)
    told = best[is_sure & is_material & (best["auc"] > 0.5)]
    told = told.iloc[np.argsort(-(told["auc"] - _BETTER * told["is_near"]), kind="stable")]
    same = told["clue"].where(told["kind"].isin(("file", "column")), told["kind"])
    findings = [_describe(case, row) for row in told[~same.duplicated()].itertuples()]
    names = case.train.target_names
    lines = [f"{row.auc:.3f}  {row.clue} ({names[row.column]})" for row in best.head(_SHOWN).itertuples()]
    return findings, [Fact("AUC of what is not the picture (best column of answers)", tuple(lines))]


def _describe(case, row):
    name = case.train.target_names[row.column]
    title = f"{row.clue} alone tells {name!r} with an AUC of {row.auc:.3f}"
    if row.kind == "column":
        return _describe_column(case, row, title)
    if row.is_near and not row.is_turned:
        return Finding(
            "warning",
            title,
            "neighbours have the same answer: pictures of one patient or session belong in one fold, so set "
            "competition.group to what names it; else the answer made the order, which nothing reads",
        )
    if row.is_near:
        title = f"the opposite of {title}"
    advice = {
        "order": "nothing reads the order, but it may hold for the test rows as well; shuffle before any split of your "
        "own",
        "name": "the host's ids betray the answer: a model cannot use them, but do not build on them; the test ids may "
        "show it too",
        "time": "the answer made the order of the files; nothing reads the time, but sizes and encoders may differ too",
        "file": "the classes may come from different sources, cameras or encoders, which a network learns instead of "
        "the picture; make all pictures alike, and look at validation by source",
    }[row.kind]
    return Finding("note" if row.kind == "order" else "warning", title, advice)


def _describe_column(case, row, title):
    column = row.clue[len("column '") : -1]
    in_test = column in case.test_rows
    is_group = case.train_rows[column].nunique() > 0.05 * len(case.train) and row.auc > 0.5
    if row.auc - 0.5 >= _ANSWER and not is_group:
        if in_test:
            return Finding("warning", title, "the test table has it too, so look at it before any network")
        advice = (
            "no network reads it, and no test row has it; look how it came about: what was made from the answer (a "
            "grade, a report) does no harm, but a source of the pictures (a site, a device) is learned in its place"
        )
        return Finding("note", title, advice)
    if is_group and case.config.competition.group is None:
        return Finding(
            "warning",
            title,
            f"rows with one value share their answer, as pictures of one patient do: set competition.group={column}",
        )
    return Finding("note", title, "no network reads it; a second model on the table's columns may help")

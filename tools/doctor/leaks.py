"""Leaks: whether row order, a name, a file or a column predicts the label without the image."""

import numpy as np
import pandas as pd
from scipy.stats import norm, rankdata

from tools.doctor.findings import Fact, Finding
from tools.doctor.leak_features import list_columns, list_leak_features

_SIGNIFICANCE = 1e-3  # family-wise error rate of all features tried
_MIN_EFFECT = {"order": 0.1, "name": 0.1, "time": 0.1, "file": 0.15, "column": 0.3}  # |AUC - .5| worth a finding
_IS_LABEL = 0.48  # |AUC - .5| of a column that is as good as the label
_BETTER = 0.05  # of AUC, by which neighbours must exceed their order to be reported in its place
_MIN_ROWS = 5  # positives and negatives, below which no AUC is computed
_NUM_SHOWN = 8


def compute_auc(is_positive, values):
    """Return the ROC AUC of values (N,) as a score of is_positive (N,) bool; ties count half.

    Reference: Fawcett, An introduction to ROC analysis, 2006, section 7: the Wilcoxon statistic.
    """
    positives = int(is_positive.sum())
    negatives = len(is_positive) - positives
    ranks = rankdata(values)
    return (ranks[is_positive].sum() - positives * (positives + 1) / 2) / (positives * negatives)


def compute_p_value(auc, num_positives, num_negatives):
    """Return the two-sided p-value of an AUC if values and labels are independent.

    Reference: Mann and Whitney, On a Test of Whether one of Two Random Variables is Stochastically Larger than the
    Other, 1947, section 4: the variance (m + n + 1) / (12 m n); ties would make it smaller.
    """
    error = np.sqrt((num_positives + num_negatives + 1) / (12 * num_positives * num_negatives))
    return 2 * norm.sf(abs(auc - 0.5) / error)


def compute_category_auc(is_positive, values):
    """Return the ROC AUC of a category, encoded by its rate of positives in other rows; below 0.5 by chance only.

    The rows are split into random halves. Each half is scored by itself, by the rates of positives in the other half,
    so that no row's own label is in its score; an unseen value gets the half's mean. One value for each row (an id)
    therefore predicts nothing, and a patient's few images predict each other.

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
    """Return the ROC AUC of the rate of positives among a row's neighbours, as a score of is_positive.

    The rate is smoothed by one more neighbour that has the mean label, so that few neighbours count less than many.

    Args:
        is_positive: (N,) bool.
        neighbours: (N, K) int, rows; -1 is none.
    """
    exists = neighbours >= 0
    sums = (is_positive[neighbours] & exists).sum(axis=1)
    return compute_auc(is_positive, (sums + is_positive.mean()) / (exists.sum(axis=1) + 1))


def compute_design_effect(is_positive, groups):
    """Return the design effect: how many rows carry as much information as one independent row; 1 without clustering.

    Args:
        is_positive: (N,) bool.
        groups: (N,) str; None: each row is its own.

    Reference: Kish, Survey Sampling, 1965: 1 + (m - 1) rho; m is the mean size of a row's group, rho the share of the
    variance between groups.
    """
    codes = np.arange(len(is_positive)) if groups is None else pd.factorize(groups)[0]
    sizes = np.bincount(codes)
    if len(sizes) == len(codes):
        return 1.0
    means = np.bincount(codes, is_positive) / sizes
    within = np.square(is_positive - means[codes]).sum() / (len(codes) - len(sizes))
    rho = max(0.0, 1 - within / is_positive.var())
    return float(1 + (np.square(sizes).sum() / len(codes) - 1) * rho)


def measure_features(features, targets, groups=None):
    """Return a table with a row per feature and target column.

    Its columns are feature, kind, column (its index), auc (0.5 or more but for categories), is_flipped (the AUC was
    below 0.5), is_near (the values are neighbours) and p_value. Target columns with fewer than 5 positives or negatives
    are left out. Windows of many neighbours are not flipped: they exclude the row itself, which biases them to the
    other label.

    Args:
        features: of `leak_features.list_leak_features`.
        targets: (N, C) in [0, 1]; positive from 0.5.
        groups: (N,) str, within which rows are dependent; None: all rows are independent.
    """
    columns, rows = [], []
    for column, is_positive in enumerate(targets.T >= 0.5):
        counts = np.array([is_positive.sum(), (~is_positive).sum()])
        if counts.min() >= _MIN_ROWS:
            columns.append((column, is_positive, counts / compute_design_effect(is_positive, groups)))
    for feature, (kind, values) in features.items():
        is_near, is_text = values.ndim == 2, values.dtype.kind not in "if"
        if not is_near and len(np.unique(values)) < 2:
            continue
        measure = compute_neighbour_auc if is_near else compute_category_auc if is_text else compute_auc
        for column, is_positive, counts in columns:
            auc = measure(is_positive, values)
            is_flipped = auc < 0.5 and not is_text and not (is_near and values.shape[1] > 2)
            # two rows that predict each other are one coincidence, counted twice
            p_value = compute_p_value(auc, *(counts / 2 if is_near or is_text else counts))
            rows.append((feature, kind, column, 1 - auc if is_flipped else auc, is_flipped, is_near, p_value))
    return pd.DataFrame(rows, columns=["feature", "kind", "column", "auc", "is_flipped", "is_near", "p_value"])


def check_leaks(data):
    """Return (findings, facts): features that predict the labels of a `CompetitionData` without the images.

    Of row order, of names and of times only the best feature is a finding.
    """
    if data.train is None or data.train.targets is None:
        return [], []
    columns = {f"column {name!r}": ("column", values) for name, values in list_columns(data).items()}
    features = list_leak_features(data) | columns
    found = measure_features(features, data.train.positives, data.train.groups)
    if not len(found):
        return [], []
    best = found.sort_values("auc", ascending=False, kind="stable").drop_duplicates("feature")
    is_significant = best["p_value"] * len(found) < _SIGNIFICANCE  # Bonferroni
    is_large = best["auc"] - 0.5 >= best["kind"].map(_MIN_EFFECT)
    leaks = best[is_significant & is_large & (best["auc"] > 0.5)]
    leaks = leaks.iloc[np.argsort(-(leaks["auc"] - _BETTER * leaks["is_near"]), kind="stable")]
    same = leaks["feature"].where(leaks["kind"].isin(("file", "column")), leaks["kind"])
    findings = [_describe(data, row) for row in leaks[~same.duplicated()].itertuples()]
    names = data.train.target_names
    cells = [(row.feature, names[row.column], f"{row.auc:.3f}") for row in best.head(_NUM_SHOWN).itertuples()]
    lines = tuple(f"{auc}  {feature} ({column})" for feature, column, auc in cells)
    table = (("", "best target column", "AUC"), *cells)
    return findings, [Fact("AUC of what is not the image (best target column)", lines, table)]


def _describe(data, row):
    name = data.train.target_names[row.column]
    title = f"{row.feature} alone predicts {name!r} with an AUC of {row.auc:.3f}"
    if data.train.task == "regression":
        title = title.replace(f"{name!r}", f"{name!r} above its mean")
    if row.kind == "column":
        return _describe_column(data, row, title)
    if row.is_near and not row.is_flipped:
        return Finding(
            "warning",
            title,
            "neighbours have the same label: images of one patient or session belong in one fold, so set "
            "competition.group to the column that names it; else the rows were sorted by label, which nothing reads",
        )
    if row.is_near:
        title = f"the opposite of {title}"
    advice = {
        "order": "nothing reads the order of rows, but the test rows may have it too; shuffle before any split of your "
        "own",
        "name": "the host's ids leak the label: a model does not see them, but do not build on them; the test ids may "
        "leak it too",
        "time": "the files were written label by label; nothing reads the time, but sizes and encoders may differ too",
        "file": "the classes may come from different sources, cameras or encoders, which a network learns instead of "
        "the image; make all images alike, and compare scores by source",
    }[row.kind]
    return Finding("note" if row.kind == "order" else "warning", title, advice)


def _describe_column(data, row, title):
    column = row.feature[len("column '") : -1]
    in_test = column in data.test_columns
    is_group = data.train_columns[column].nunique() > 0.05 * len(data.train) and row.auc > 0.5
    if row.auc - 0.5 >= _IS_LABEL and not is_group:
        if in_test:
            return Finding("warning", title, "the test table has it too, so look at it before any network")
        advice = (
            "no network reads it, and no test row has it; find out where it comes from: a column made from the label "
            "(a grade, a report) does no harm, but a source of the images (a site, a device) is learned instead"
        )
        return Finding("note", title, advice)
    if is_group and data.config.competition.group is None:
        return Finding(
            "warning",
            title,
            f"rows with one value share their label, as images of one patient do: set competition.group={column}",
        )
    if column in data.config.competition.metadata:
        return Finding("note", title, "the network is given it, by competition.metadata")
    advice = "a second model on the table's columns may help"
    if in_test:
        advice = f"competition.metadata=[{column}] gives it to the network; or {advice}"
    return Finding("note", title, advice if in_test else f"no network reads it; {advice}")

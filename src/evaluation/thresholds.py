"""Probabilities -> labels: thresholds that a metric of labels asks for, found on out-of-fold predictions and judged."""

from dataclasses import dataclass, replace

import numpy as np

from src.evaluation.metrics import Metric, build_metric, row_fbeta, sklearn_metrics
from src.evaluation.sampling import number_units, sample_scores

_MOST_CLASSES, _NUM_PLACES = 50, 64
_MOST_VALUES, _MOST_CELLS = 2e6, 2e7  # that are searched: rows x columns, rows x classes^2; of more, rows are drawn


@dataclass(frozen=True)
class Decision:
    """How probabilities (N, C) become labels: a column is true from its threshold on."""

    thresholds: np.ndarray | list | float = 0.5  # (C,); regression: a column's {grade: lowest value}, but the lowest
    task: str = "binary"  # multiclass: that class is true whose probability is most times its threshold
    may_be_none: bool = True  # False: a row without any label gets its largest

    def labels(self, probs):
        """Return (N, C) bool; of regression the grades, int64."""
        probs = np.asarray(probs)
        if self.task == "regression":
            grades = np.rint(probs).astype(np.int64)
            for column, one in enumerate([] if isinstance(self.thresholds, float) else self.thresholds):
                if one:
                    grades[:, column] = min(one) - 1 + np.searchsorted([*one.values()], probs[:, column], "right")
            return grades
        if self.task == "multiclass":
            return (probs / self.thresholds).argmax(axis=1)[:, None] == np.arange(probs.shape[1])
        is_label = probs >= self.thresholds
        if not self.may_be_none:
            is_label[np.arange(len(probs)), probs.argmax(axis=1)] |= ~is_label.any(axis=1)
        return is_label


def read_decision(scores, target_names, task, may_be_none=True):
    """Return the Decision that scores.json, a dict, holds; the plain one where it has no thresholds."""
    if "thresholds" not in scores:
        return Decision(task=task, may_be_none=may_be_none)
    thresholds = [scores["thresholds"][name] for name in target_names]
    if task == "regression":
        thresholds = [{int(grade): value for grade, value in one.items()} for one in thresholds]
        return Decision(thresholds, task)
    return Decision(np.array(thresholds), task, scores["may_be_none"])


def label_metric(metric, is_asked=False):
    """Return the Metric of labels that thresholds are found for; is_asked: labels are, whatever the metric takes."""
    if metric.takes == "classes":
        return metric
    if metric.name == "f1_best" and metric.task == "multiclass":
        return build_metric("f1_macro", metric.task)
    if metric.name == "f1_best" or is_asked:
        f1 = lambda labels, predicted: sklearn_metrics().f1_score(labels, predicted, zero_division=0)  # noqa: E731
        how = {"name": "f1_best", "task": metric.task, "weights": metric.weights if metric.has_columns else None}
        return Metric(f1, takes="classes", fold_needs="both", per_column=True, **how)
    return None


def judge_thresholds(metric, targets, probs, parts, groups=None, may_be_none=True, max_work=2e7):
    """Find thresholds for a metric of labels, and score those of each part's rows that the other parts' rows give.

    Args:
        metric: of `label_metric`.
        targets, probs: (N, C).
        parts: (N,), the folds; of a single one its rows, or groups, are dealt into five.
        groups, max_work: of `sample_scores`.

    Returns:
        (Decision, Sampling): the one to use, and the scores of the plain thresholds and of the nested ones. Found
        thresholds are used where nested is better by more than noise: one-sided, at 95 %.
    """
    if len(np.unique(parts)) == 1:
        units = number_units(groups, len(parts))
        parts = np.random.default_rng(0).permutation(units.max() + 1)[units] % 5
    plain = Decision(plain_thresholds(metric, targets), metric.task, may_be_none)
    nested = np.empty(probs.shape)
    for part in np.unique(parts):
        own = parts == part
        found = replace(plain, thresholds=find_thresholds(metric, targets[~own], probs[~own]))
        nested[own] = found.labels(probs[own])
    both = sample_scores(metric, targets, [plain.labels(probs), nested], groups, max_work=max_work)
    gain, low, high, _ = both.difference(0, 1)
    is_better = (gain if metric.greater_is_better else -gain) > 1.645 / 1.96 * (high - low) / 2 and gain != 0
    return replace(plain, thresholds=find_thresholds(metric, targets, probs)) if is_better else plain, both


def plain_thresholds(metric, targets):
    """Return thresholds of 0.5; of regression those halfway between the grades of each column, {} of more than 50."""
    if metric.task != "regression":
        return np.full(np.shape(targets)[1], 0.5)
    found = []
    for column in np.asarray(targets).T:
        grades = np.rint(column[~np.isnan(column)]).astype(np.int64)
        low, high = (int(grades.min()), int(grades.max())) if len(grades) else (0, 0)
        found.append({grade: grade - 0.5 for grade in range(low + 1, high + 1) if high - low < _MOST_CLASSES})
    return found


def find_thresholds(metric, targets, probs):
    """Return thresholds as `Decision` has them that make a metric of labels best on targets and probs (N, C).

    One threshold is moved at a time, the others as they stand: every place of it makes a confusion table, and the
    metric's entry in CRITERIA says which is best. A column alone, or whose score is averaged with others', has the best
    of all thresholds. Columns that count together, classes (at most 50) and grades take three turns, the latter two
    over quantiles: they end where no single move gains much, which need not be the best. A metric without an entry
    keeps the plain ones.

    Reference: of grades the optimised rounding of kaggle.com's Crowdflower 2015 and APTOS 2019.
    """
    targets, probs = np.asarray(targets), np.asarray(probs, dtype=np.float64)
    thresholds, count, is_of_classes = plain_thresholds(metric, targets), targets.shape[1], metric.task == "multiclass"
    if metric.name == "fbeta_samples" and metric.task == "multilabel":
        return _climb_rows(metric.positives(targets), ~np.isnan(targets), probs, thresholds, **metric.kwargs)
    if metric.name not in CRITERIA or not len(targets) or (is_of_classes and count > _MOST_CLASSES):
        return thresholds
    most = max(1000, int(_MOST_CELLS / count**2 if is_of_classes else _MOST_VALUES / count))
    if len(targets) > most:
        rows = np.random.default_rng(0).choice(len(targets), most, replace=False)
        targets, probs = targets[rows], probs[rows]
    criterion = CRITERIA["f1_best" if metric.task == "multilabel" and metric.name.startswith("f1") else metric.name]
    if metric.task == "regression":
        for steps, truth, values in zip(thresholds, targets.T, probs.T, strict=True):
            places = np.array([*steps.values()])
            _climb(criterion, _grades(truth, values, min(steps, default=0)), places, 3)
            steps.update(zip(steps, places.tolist(), strict=True))
    elif is_of_classes:
        _climb(criterion, _classes(metric.positives(targets).argmax(axis=1), probs), thresholds, 3)
    else:
        together = metric.name if count > 1 and metric.name in ("accuracy", "f1_micro") else None
        moves = _columns(metric.positives(targets), ~np.isnan(targets), probs, together)
        _climb(criterion, moves, thresholds, 3 if together else 1)
    return thresholds


def _climb(criterion, move_of, thresholds, num_rounds):
    """Move thresholds in place, one after the other; move_of: (its index, thresholds) -> arguments of `_best_place`."""
    for one in [*range(len(thresholds))] * num_rounds:
        truth, values, *rest = move_of(one, thresholds)
        if len(truth):
            thresholds[one] = _best_place(criterion, thresholds[one], truth, values, *rest)


def _best_place(criterion, start, truth, values, limits, rest=0, sides=(0, 1), count=2):
    """Return the best threshold of rows (N,), sides[1] where their value reaches it, else sides[0]; int or (N,).

    Of equally good ones it is the nearest to `start`. limits: which it does not leave. rest: the confusion table of
    all other rows. count: the classes; two are searched place by place, more over quantiles of the values.
    """
    places = np.concatenate([limits[:1], np.unique(values), limits[1:]])
    places = (places[:-1] + places[1:]) / 2
    if count > 2 and len(places) > _NUM_PLACES:
        shares, right = np.linspace(0, 1, _NUM_PLACES // 2), values[truth == sides[1]]  # where a rare class is
        quantiles = [np.quantile(one, shares) for one in (values, right) if len(one)]
        places = np.unique(np.concatenate([*quantiles, [start]]))
    num_reached, length = np.searchsorted(places, values, "right"), len(places) + 1
    below, above = (_tabulate(truth, side, count, num_reached, length).cumsum(axis=0) for side in sides)
    scores = np.nan_to_num(criterion(rest + above[-1] - above[:-1] + below[:-1]), nan=-np.inf)
    best = places[scores >= scores.max() - 1e-12]
    return best[np.abs(best - start).argmin()]


def _climb_rows(is_positive, is_known, probs, thresholds, beta=1.0):
    """Move each column's threshold, three times, to the best mean F-beta of the rows while the others stand."""
    num_true = is_positive.sum(axis=1)
    for one in [*range(probs.shape[1])] * 3:
        labels = (probs >= thresholds) & is_known & (np.arange(probs.shape[1]) != one)
        hits, counts = (labels & is_positive).sum(axis=1), labels.sum(axis=1)
        gains = row_fbeta(hits + is_positive[:, one], num_true, counts + 1, beta)
        gains = (gains - row_fbeta(hits, num_true, counts, beta)) * is_known[:, one]
        order = np.argsort(-probs[:, one])
        values = np.concatenate([[1 + 1e-6], probs[order, one], [0]])
        sums, places = np.concatenate([[0], gains[order].cumsum()]), (values[:-1] + values[1:]) / 2
        sums[values[:-1] == values[1:]] = -np.inf  # equal probabilities get one label
        best = places[sums >= sums.max() - 1e-12]
        thresholds[one] = best[np.abs(best - thresholds[one]).argmin()]
    return thresholds


def _columns(is_positive, is_known, probs, together):
    """The moves of columns (N, C); together: the metric, where a column's best threshold depends on the others'."""
    seen, is_right = np.full(probs.shape[1], np.nan), np.ones(probs.shape, dtype=bool)
    tables = np.zeros((probs.shape[1], 2, 2), dtype=np.int64)

    def move_of(one, thresholds):
        for column in np.flatnonzero(seen != thresholds) if together else ():
            known, labels = is_known[:, column], probs[:, column] >= thresholds[column]
            is_right[:, column] = (labels == is_positive[:, column]) | ~known
            tables[column] = _tabulate(is_positive[known, column], labels[known], 2)[0]
            seen[column] = thresholds[column]
        rows = is_known[:, one]
        if together == "accuracy":  # the column decides about the rows that are right elsewhere
            rows = rows & (np.delete(is_right, one, axis=1)).all(axis=1)
        elif not together and not is_positive[:, one].any():
            rows = []  # any threshold is as good
        rest = tables.sum(axis=0) - tables[one] if together == "f1_micro" else 0
        return is_positive[rows, one], probs[rows, one], (0, 1 + 1e-6), rest

    return move_of


def _classes(truth, probs):
    """The moves of classes (N, K): a row is of the class whose share of its threshold is above all others'."""

    def move_of(one, thresholds):
        others = probs / thresholds
        others[:, one] = -1
        wins_below = probs[:, one] / np.maximum(others.max(axis=1), 1e-12)
        return truth, wins_below, (0, 2 * wins_below.max()), 0, (others.argmax(axis=1), one), probs.shape[1]

    return move_of


def _grades(truth, values, first):
    """The moves of a column's steps between grades (N,), of which `first` is above the lowest step."""
    is_known = ~np.isnan(truth)
    truth, values = np.rint(truth[is_known]).astype(np.int64) - first + 1, values[is_known]

    def move_of(one, steps):
        grades, count = np.searchsorted(steps, values, "right"), len(steps) + 1
        is_near = (grades == one) | (grades == one + 1)  # the others keep their grade
        near, rest = values[is_near], _tabulate(truth[~is_near], grades[~is_near], count)
        limits = [near.min(initial=0) - 1, *steps, near.max(initial=0) + 1][one : one + 3 : 2]
        return truth[is_near], near, limits, rest, (one, one + 1), count

    return move_of


def _tabulate(truth, labels, num_classes, index=0, length=1):
    """Return the confusion tables (length, K, K), true class first, of the rows (N,) that have each index."""
    cells = (index * num_classes + truth) * num_classes + labels
    return np.bincount(cells, minlength=length * num_classes**2).reshape(length, num_classes, num_classes)


def _accuracy(tables):
    return np.trace(tables, axis1=1, axis2=2) / tables.sum(axis=(1, 2))


def _recall(tables):
    with np.errstate(invalid="ignore"):
        return np.nanmean(np.diagonal(tables, axis1=1, axis2=2) / tables.sum(axis=2), axis=1)


def _each_f1(tables):
    counts = tables.sum(axis=1) + tables.sum(axis=2)
    return 2 * np.diagonal(tables, axis1=1, axis2=2) / np.where(counts, counts, np.nan)


def _kappa(tables):
    distances = np.subtract.outer(*2 * [np.arange(tables.shape[1])]) ** 2
    expected = np.einsum("ti,tj,ij->t", tables.sum(axis=2), tables.sum(axis=1), distances) / tables.sum(axis=(1, 2))
    return 1 - (tables * distances).sum(axis=(1, 2)) / np.where(expected, expected, np.nan)


CRITERIA = {  # what a metric of labels makes of confusion tables (T, K, K), the true class first: (T,)
    "accuracy": _accuracy,
    "f1_micro": _accuracy,  # of one column or of classes
    "balanced_accuracy": _recall,
    "quadratic_kappa": _kappa,
    "f1_macro": lambda tables: np.nanmean(_each_f1(tables), axis=1),
    "f1_best": lambda tables: np.nan_to_num(_each_f1(tables)[:, 1]),  # of the positives
}
